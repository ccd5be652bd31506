"""Train a stack of clients on one device."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from lpft.clients.batches import StackSamples
from lpft.clients.device_data import DeviceSamples
from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from lpft.data.datamodule import FederatedDataModule
from lpft.data.transforms import num_draws
from lpft.federated.settings import Federation
from lpft.models.base import BodyHeadNet
from lpft.runtime.seeding import seed_global_generator
from lpft.types import StackUpdate, State


class LocalTrainer:
    """Trains clients from the global state; keeps one stack of networks per size, and no client's state.

    Args:
        fabric: gives device and precision. Gradients stay on this rank: no network is set up for distributed training.
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
        self.samples = DeviceSamples(data, fabric.device)
        self._stacks: dict[int, ClientStack] = {}

    def train(self, clients: list[int], global_state: State, round_: int) -> StackUpdate:
        """Train one stack of clients, each from the global state on its own data.

        Args:
            clients: positions of the clients; they need the same number of steps.
            global_state: state dict every client starts from.
            round_: number of the round; with the seed it determines the batches.
        """
        dtype = self.net.head.weight.dtype
        stack = self._stack(len(clients))
        stack.load(global_state)
        stack.train()
        seed_global_generator(self.fabric.device, self.seed, "federate", round_, clients[0])  # for dropout
        samples = StackSamples.of(self.data, clients, self.settings.batch_size)
        optimizer = self.settings.optimizer(stack.parameters())
        check_elementwise(optimizer, len(clients))
        shares = samples.shares().to(self.fabric.device)
        losses = torch.zeros(len(clients), device=self.fabric.device)
        for epoch in range(self.settings.local_epochs):
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
                optimizer.step()
                losses += (share * sample_loss.detach()).sum(1)
        return StackUpdate(clients, stack.stacked_state(), list(samples.counts), losses)

    def _stack(self, num_clients: int) -> ClientStack:
        if num_clients not in self._stacks:
            self._stacks[num_clients] = self.fabric.to_device(ClientStack(self.net, num_clients))  # type: ignore[assignment]
        return self._stacks[num_clients]
