"""FedAvg: the round loop and all collectives of the package."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed

from lpft.clients.batches import stacks
from lpft.clients.device_data import DeviceSamples
from lpft.clients.features import chunks
from lpft.clients.single_values import untrainable_clients
from lpft.data.datamodule import FederatedDataModule
from lpft.federated.aggregation import Aggregator
from lpft.federated.checkpoint import Checkpoint, History
from lpft.federated.cohort import sample_cohort, shard
from lpft.federated.files import GlobalModelFiles
from lpft.federated.local import LocalTrainer
from lpft.federated.memory import ClientMemory
from lpft.federated.server import ServerOptimizer
from lpft.federated.settings import Federation
from lpft.models.base import BodyHeadNet
from lpft.runtime.seeding import generator
from lpft.runtime.signals import note_progress
from lpft.types import StackUpdate, State

log = logging.getLogger("lpft")

T = TypeVar("T")
Training = Callable[[list[list[int]], State], Iterable[StackUpdate]]
"""A function that trains stacks of clients, given by their positions, from a global state."""


def fedavg_round(
    fabric: Fabric,
    global_state: State,
    cohort: list[list[int]],
    num_samples: Sequence[int],
    train: Training,
    aggregator: Aggregator,
    describe: Callable[[int], str] = "client {}".format,
    memory: ClientMemory | None = None,
) -> tuple[State, float]:
    """Run one round: train this rank's clients, sum their updates over all ranks by one all-reduce, and average.

    Args:
        fabric: the ranks.
        global_state: state dict of the global model, the same on every rank.
        cohort: the clients of the round, in stacks.
        num_samples: training samples of each client, by position.
        train: function that trains stacks of clients from the global state.
        aggregator: combines client updates into the next global state.
        describe: function that returns client, round and seed for messages, given the client's position.
        memory: tensors that clients keep between rounds; None if they keep none.

    Returns:
        The means of the clients' states and of their losses; equal on all ranks and for any number of ranks.

    References:
        McMahan et al., arXiv:1602.05629, Algorithm 1.
    """
    rows = {client: row for row, client in enumerate(sorted(itertools.chain(*cohort)))}
    total = aggregator.zeros(global_state, [num_samples[client] for client in rows])
    losses = torch.zeros(len(rows), dtype=torch.float64, device=total.device)
    memories = losses.new_zeros(len(rows), memory.size if memory else 0)
    for update in train(shard(cohort, num_samples, fabric.global_rank, fabric.world_size), global_state):
        for client in aggregator.add(total, update):
            log.warning("%s has diverged and is left out of the round's average", describe(client))
        update_rows = [rows[client] for client in update.clients]
        losses[update_rows] = update.losses.double()
        if memory and memory.size:
            # `+=` drops the sign of zeros, as the sum over ranks does.
            memories[update_rows] += memory.rows(update.memory, memories.dtype)
    total, losses, memories = _sum(fabric, total, losses, memories)
    if memory:
        memory.put(list(rows), memories)
    return aggregator.finish(total, like=global_state), float(losses.nanmean())


class Clients(Protocol):
    """The clients of a federation, simulated in this process or on other machines."""

    num_samples: list[int]
    """Number of training samples of each client, by position; 0 for clients that cannot be trained."""
    memory: ClientMemory
    """The tensors that clients keep between rounds."""

    def cohort(self, clients: list[int], state: State, round_: int) -> tuple[list[list[int]], Training]:
        """Return the clients of a round in stacks, and the function that trains stacks from the global state."""

    def test(self, state: State, stop: bool) -> tuple[float, bool]:
        """Test a global state on the clients' validation sets; see `ValidationTest`."""

    def describe(self, client: int) -> str:
        """Return the name of a client."""


def train_rounds(
    fabric: Fabric, net: BodyHeadNet, clients: Clients, settings: Federation, seed: int, files: GlobalModelFiles
) -> bool:
    """Train a global model, from the last checkpoint if there is one.

    Args:
        fabric: the ranks.
        net: the network to start from, the same on every rank.
        clients: the clients.
        settings: rounds, participation, aggregation and server optimizer.
        seed: seed of the cohorts.
        files: writes checkpoints, history and the trained model.

    Returns:
        Whether all rounds are finished; False if training was stopped.

    Raises:
        FloatingPointError: if all clients of a round have diverged.
        OSError: on every rank, if the state cannot be written.
    """
    aggregator, memory = settings.aggregator(settings.weighting), clients.memory
    server = None
    if settings.server_optimizer is not None:
        server = ServerOptimizer(settings.server_optimizer, net, fabric.device)
    with files:
        start = files.resume() or Checkpoint(0, {name: t.clone() for name, t in net.state_dict().items()}, [])
        state = {name: t.to(fabric.device) for name, t in start.state.items()}
        completed, history = start.round, start.history
        memory.load_state_dict(start.memory)
        if server:
            server.load_state_dict(start.server)
        for round_ in range(completed + 1, settings.rounds + 1):
            start_time = time.perf_counter()
            cohort = sample_cohort(clients.num_samples, settings.participation, seed, round_)
            parts, train = clients.cohort(cohort, state, round_)
            describe = partial(_describe, clients, seed, round_)
            try:
                mean, loss = fedavg_round(
                    fabric, state, parts, clients.num_samples, train, aggregator, describe, memory
                )
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"In round {round_} of seed {seed} {error}."
                    " HINT: lower the learning rate, `--federation.optimizer.init_args.lr`."
                ) from None
            state = server.step(state, mean) if server else mean
            accuracy, stop = clients.test(state, files.stopping())
            row = History(round_, loss, accuracy, len(cohort), seconds=time.perf_counter() - start_time)
            completed, history = round_, [*history, row]
            checkpoint = partial(_checkpoint, round_, state, history, memory, server)
            files.save_round(checkpoint, row, last=stop or round_ == settings.rounds)
            note_progress()
            if stop:
                break
        finished = completed == settings.rounds
        if finished:
            personalizes = settings.algorithm is not None and settings.algorithm.personalizes
            files.save_model(state, memory.state_dict() if personalizes else {})
    return finished


def _describe(clients: Clients, seed: int, round_: int, client: int) -> str:
    return f"seed {seed}, round {round_}: client {clients.describe(client)}"


def _checkpoint(
    round_: int, state: State, history: list[History], memory: ClientMemory, server: ServerOptimizer | None
) -> Checkpoint:
    return Checkpoint(round_, state, history, memory.state_dict(), server.state_dict() if server else {})


class FedAvg:
    """Federated training of one global model over simulated clients.

    Args:
        fabric: the ranks; already launched.
        net: the network to start from, the same on every rank.
        data: the clients.
        settings: rounds, participation, local training, aggregation.
        clients_per_stack: maximum number of clients in a stack.
        seed: seed of cohorts and batches.
    """

    def __init__(
        self,
        fabric: Fabric,
        net: BodyHeadNet,
        data: FederatedDataModule,
        settings: Federation,
        clients_per_stack: int,
        seed: int,
    ) -> None:
        self.fabric, self.net, self.settings, self.seed = fabric, net, settings, seed
        self.data, self.clients_per_stack = data, clients_per_stack
        untrainable = untrainable_clients(net, data)
        self.num_samples = [0 if k in untrainable else len(client.train) for k, client in enumerate(data.clients)]
        self.trainer = LocalTrainer(fabric, net, data, settings, seed)
        num_clients = sum(count > 0 for count in self.num_samples)
        self.memory = ClientMemory(self.trainer.algorithm, net, num_clients, fabric.device)
        self.test = ValidationTest(fabric, net, self.trainer.samples, seed)

    def fit(self, files: GlobalModelFiles) -> bool:
        """Train, from the last checkpoint if there is one; see `train_rounds`."""
        return train_rounds(self.fabric, self.net, self, self.settings, self.seed, files)

    def cohort(self, clients: list[int], state: State, round_: int) -> tuple[list[list[int]], Training]:
        """Return the clients of a round in stacks, and the function that trains stacks from the global state."""
        parts = stacks(clients, self.num_samples, self.settings.batch_size, self.clients_per_stack)
        return parts, partial(self.trainer.train_all, round_=round_, memory=self.memory)

    def describe(self, client: int) -> str:
        """Return the name of a client."""
        return self.data.clients[client].name


class ValidationTest:
    """Tests global states on the clients' validation sets, divided among the ranks.

    The validation sets are divided in the same way for any number of ranks. With more than 1,000 clients, 1,000 clients
    drawn by the seed are tested, so that the time of a round does not grow with the federation.

    Args:
        fabric: the ranks.
        net: the architecture; its parameters are overwritten.
        samples: the data on the device.
        seed: seed of the run.
    """

    MAX_CLIENTS = 1000

    def __init__(self, fabric: Fabric, net: BodyHeadNet, samples: DeviceSamples, seed: int) -> None:
        self.fabric, self.samples = fabric, samples
        self.net = net.to(fabric.device).to(memory_format=torch.channels_last).eval()
        with_val = [client for client in samples.data.clients if len(client.val)]
        drawn = torch.randperm(len(with_val), generator=generator(seed, "tested"))[: self.MAX_CLIENTS].sort().values
        sets = [with_val[number].val for number in drawn.tolist()]
        self.names = [with_val[number].name for number in drawn.tolist()]
        self.sizes = torch.tensor([len(val) for val in sets], dtype=torch.float64)
        owner = torch.arange(len(sets)).repeat_interleave(self.sizes.long())
        own_chunks = list(chunks(torch.arange(len(owner))))[fabric.global_rank :: fabric.world_size]
        positions = torch.cat([owner[:0], *own_chunks])
        index = torch.cat([owner[:0], *sets])[positions]
        self.pieces = [piece for piece in chunks(index) if len(piece)]
        self._owner, self._labels = owner[positions].to(fabric.device), samples.labels(index)
        self._images: dict[int, Tensor] = {}
        self._keeps = bool(sets) and samples.can_keep(sum(map(len, sets)))

    def __call__(self, state: State, stop: bool) -> tuple[float, bool]:
        """Test a global state; the same all-reduce determines whether any rank must stop.

        Args:
            state: the global state.
            stop: whether this rank must stop: a signal does not reach all ranks in the same round.

        Returns:
            The mean of the clients' accuracies in percent, NaN without validation samples; and whether to stop.
        """
        correct, stops = _sum(self.fabric, self.correct(state), torch.tensor([float(stop)], device=self.fabric.device))
        return mean_accuracy(correct.cpu(), self.sizes), bool(stops)

    @torch.no_grad()
    def correct(self, state: State) -> Tensor:
        """Count the correct predictions for this rank's samples of each set, ``(num_sets,)``."""
        self.net.load_state_dict(state)
        correct = torch.zeros(len(self.sizes), dtype=torch.float64, device=self.fabric.device)
        predicted = [self.net(self._normalized(number)).argmax(-1) for number in range(len(self.pieces))]
        hits = torch.cat([self._labels[:0], *predicted]) == self._labels
        return correct.index_add_(0, self._owner, hits.double())

    def _normalized(self, number: int) -> Tensor:
        images = self._images.get(number)
        if images is None:
            images = self.samples.images(self.pieces[number], self.net.head.weight.dtype)
            if self._keeps:
                self._images[number] = images
        return images


def mean_accuracy(correct: Tensor, sizes: Tensor) -> float:
    """Return the mean accuracy over sets in percent; NaN without any set."""
    return float((100 * correct / sizes).mean())


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Return, on every rank, whether the flag is set on any rank."""
    return bool(_sum(fabric, torch.tensor(float(flag), device=fabric.device))[0])


def gathered(fabric: Fabric, value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks; values must be picklable."""
    values: list[Any] = [value] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(values, value)
    return values


def _sum(fabric: Fabric, *tensors: Tensor) -> list[Tensor]:
    """Sum tensors over all ranks by one all-reduce in float64; every rank gets the sums."""
    flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    if fabric.world_size > 1:
        distributed.all_reduce(flat)  # `fabric.all_reduce` would wait at another barrier first
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
