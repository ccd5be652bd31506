"""Train a stack of clients on one device."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from lpft.clients.batches import StackSamples
from lpft.clients.device_data import DeviceSamples
from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from lpft.data.datamodule import FederatedDataModule
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
        trained = [parameter for parameter in stack.parameters() if parameter.requires_grad]
        optimizer = self.settings.optimizer(trained)
        check_elementwise(optimizer, len(clients))
        shares = samples.shares().to(self.fabric.device)
        losses = torch.zeros(len(clients), device=self.fabric.device)
        for epoch in range(self.settings.local_epochs):
            losses.zero_()
            order = samples.epoch(self.seed, "federate", round_, epoch)
            draws = samples.draws(self.data.num_draws, self.seed, "augment", "federate", round_, epoch)
            for positions, numbers, share in zip(order, draws, shares, strict=True):
                index = samples.in_dataset(positions)
                with self.fabric.autocast():
                    logits = stack(self.samples.images(index, dtype, numbers))
                sample_loss = sample_losses(logits.to(dtype), self.samples.labels(index))
                loss = sample_loss.mean(1).sum()  # no gradient of one client reaches another
                for parameter, gradient in zip(
                    trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True
                ):
                    parameter.grad = (
                        gradient  # as it is: `backward` would copy it into the parameter's layout of memory
                    )
                optimizer.step()
                losses += (share * sample_loss.detach()).sum(1)
        return StackUpdate(clients, stack.stacked_state(), list(samples.counts), losses)

    def _stack(self, num_clients: int) -> ClientStack:
        if num_clients not in self._stacks:
            self._stacks[num_clients] = self.fabric.to_device(ClientStack(self.net, num_clients))  # type: ignore[assignment]
        return self._stacks[num_clients]
