"""Train a stack of clients on one device."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from lpft.clients.batches import StackSamples, joined
from lpft.clients.device_data import DeviceSamples
from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from lpft.clients.stack_size import MIN_STACKS, can_be_joined, clients_per_stack
from lpft.data.datamodule import FederatedDataModule
from lpft.data.transforms import num_draws
from lpft.federated.algorithms import Algorithm
from lpft.federated.memory import ClientMemory, check_tensors
from lpft.federated.settings import Federation
from lpft.models.base import BodyHeadNet
from lpft.runtime.seeding import seed_global_generator
from lpft.types import StackUpdate, State


class LocalTrainer:
    """Trains clients from the global state; caches one stack of networks per size, but no client's state.

    Args:
        fabric: defines device and precision. Networks are not set up for distributed training, so gradients stay on
            this rank.
        net: the architecture.
        data: the clients.
        settings: batch size, local epochs and optimizer.
        seed: seed of the run.
    """

    def __init__(
        self, fabric: Fabric, net: BodyHeadNet, data: FederatedDataModule, settings: Federation, seed: int
    ) -> None:
        self.fabric = fabric
        self.net = net
        self.data = data
        self.settings = settings
        self.seed = seed
        self.algorithm = settings.algorithm or Algorithm()
        self.samples = DeviceSamples(data, fabric.device)
        self._stacks: dict[int, ClientStack] = {}
        self._num_samples = [len(client.train) for client in data.clients]
        self._most: dict[int, int] = {}

    def train_all(
        self, stacks: list[list[int]], global_state: State, round_: int, memory: ClientMemory | None = None
    ) -> Iterator[StackUpdate]:
        """Train stacks of clients, each client from the global state on its own data; see `train`.

        Where possible, several stacks are trained as one, which saves time and gives the same results bit for bit.

        Yields:
            The updates of one or several stacks; valid until the next one is requested.
        """
        most = self._most_joined(max(map(len, stacks), default=0))
        for group in joined(stacks, self._num_samples, self.settings.batch_size, most):
            update = self.train(list(itertools.chain(*group)), global_state, round_, memory=memory)
            yield replace(update, joined=tuple(map(len, group)))

    def train(
        self, clients: list[int], global_state: State, round_: int, memory: ClientMemory | None = None
    ) -> StackUpdate:
        """Train one stack of clients, each from the global state on its own data.

        Args:
            clients: positions of the clients; they need the same number of steps.
            global_state: state dict every client starts from.
            round_: number of the round; with the seed it determines the batches.
            memory: the tensors that clients keep between rounds; None if they keep nothing.
        """
        algorithm, stack = self.algorithm, self._stack(len(clients))
        kept, shared = (memory.of(clients), memory.shared()) if memory else ({}, {})
        correct = None
        if algorithm.overrides("gradient"):
            correct = partial(self._correct, stack, start=global_state, kept=kept, shared=shared)
        if algorithm.trains_memory:
            stack.load({**global_state, **kept})
            self._fit(stack, clients, round_, correct)
            kept = {name: tensor.clone() for name, tensor in stack.stacked_state().items() if name in kept}
        stack.load(global_state)
        if algorithm.overrides("begin"):
            begin = partial(self._call, "begin", self.net.state_dict())
            stack.write(stack.map(begin, kept) if kept else begin({}))
        losses, path = self._fit(stack, clients, round_, None if algorithm.trains_memory else correct)
        if algorithm.overrides("end"):
            kept = stack.map(
                lambda state, own: self._call("end", own, state, global_state, own, shared, path),
                stack.stacked_state(),
                kept,
            )
        counts = [self._num_samples[client] for client in clients]
        return StackUpdate(clients, stack.stacked_state(), counts, losses, kept)

    def _fit(
        self, stack: ClientStack, clients: list[int], round_: int, correct: Callable[[], None] | None
    ) -> tuple[Tensor, float]:
        """Train a stack for the epochs of a round.

        Args:
            stack: K clients.
            clients: their positions.
            round_: number of the round.
            correct: function that changes the gradients of a step; None to leave them unchanged.

        Returns:
            The clients' mean losses in the last epoch, ``(K,)``, and the learning rate times the number of steps.
        """
        dtype = self.net.head.weight.dtype
        stack.train()
        seed_global_generator(self.fabric.device, self.seed, "federate", round_, clients[0])  # for dropout
        samples = StackSamples.of(self.data, clients, self.settings.batch_size)
        optimizer = self.settings.optimizer(stack.parameters())
        check_elementwise(optimizer, stack.num_clients)
        shares = samples.shares().to(self.fabric.device)
        losses = torch.zeros(stack.num_clients, device=self.fabric.device)
        parts = self.algorithm.epochs(self.settings.local_epochs)
        for epoch, part in enumerate(parts):
            if self.algorithm.overrides("epochs"):
                stack.freeze_body(part == "head")
                stack.freeze_head(part == "body")
            losses.zero_()
            order = samples.epoch(self.seed, "federate", round_, epoch)
            draws = samples.draws(num_draws(self.data.augment), self.seed, "augment", "federate", round_, epoch)
            batches = self.samples.batches(samples.in_dataset(order), draws)  # on the device before the first step
            for (index, labels, numbers), share in zip(batches, shares, strict=True):
                with self.fabric.autocast():
                    logits = stack(self.samples.images(index, dtype, numbers))
                sample_loss = sample_losses(logits.to(dtype), labels)
                optimizer.zero_grad()
                sample_loss.mean(1).sum().backward()  # no gradient of one client reaches another
                if correct is not None:
                    correct()
                optimizer.step()
                losses += (share * sample_loss.detach()).sum(1)
        return losses, optimizer.param_groups[0]["lr"] * samples.num_steps * len(parts)

    @torch.no_grad()
    def _correct(self, stack: ClientStack, start: State, kept: State, shared: State) -> None:
        """Replace the gradients of a stack by those of the algorithm."""
        gradients = stack.gradients()
        changed = stack.map(
            lambda params, own, g: self._call("gradient", g, params, start, own, shared, g),
            {name: p for name, p in stack.params().items() if name in gradients},
            kept,
            gradients,
        )
        for name, gradient in changed.items():
            gradients[name].copy_(gradient)

    def _call(self, hook: str, like: State, *args: Any) -> State:
        """Call a hook of the algorithm for one client.

        Args:
            hook: name of the hook.
            like: tensors that the result may contain, and must contain all of if it is the client's memory.
            args: arguments of the hook.

        Raises:
            TypeError, ValueError: if the result does not consist of such tensors.
        """
        name = f"`{hook}` of {type(self.algorithm).__name__}"
        result: State = check_tensors(name, getattr(self.algorithm, hook)(*args))
        for entry, tensor in result.items():
            if entry not in like or tensor.shape != like[entry].shape:
                needed = f"must have the shape {tuple(like[entry].shape)}" if entry in like else "has an unknown name"
                raise ValueError(f"{name} returned `{entry}` of shape {tuple(tensor.shape)}, which {needed}.")
        missing = sorted(like.keys() - result.keys()) if hook == "end" else []
        if missing:
            raise ValueError(f"{name} returned no `{missing[0]}`, which is part of the memory.")
        return result

    def _most_joined(self, size: int) -> int:
        """Return the maximum number of clients to train as one, for stacks of this size; 1 if stacks are not joined.

        An algorithm may do anything with a client's tensors, and other precisions have other kernels.
        """
        data, settings = self.data, self.settings
        if size not in self._most:
            precision = self.fabric.strategy.precision.precision
            plain = settings.algorithm is None and data.augment is None and precision in ("32-true", "64-true")
            joins = plain and self.fabric.device.type == "cpu" and can_be_joined(self.net, settings.batch_size, size)
            many = MIN_STACKS * len(data.clients)
            best = clients_per_stack("auto", self.net, data.spec, settings.batch_size, many, "cpu") if joins else 1
            self._most[size] = best
        return self._most[size]

    def _stack(self, num_clients: int) -> ClientStack:
        if num_clients not in self._stacks:
            self._stacks[num_clients] = self.fabric.to_device(ClientStack(self.net, num_clients))  # type: ignore[assignment]
        return self._stacks[num_clients]
