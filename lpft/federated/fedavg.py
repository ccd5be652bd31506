"""FedAvg: the round loop, top to bottom. The collectives of the package are in this file."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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


def fedavg_round(
    fabric: Fabric,
    global_state: State,
    cohort: list[list[int]],
    num_samples: Sequence[int],
    train: Callable[[list[int], State], StackUpdate],
    aggregator: Aggregator,
    describe: Callable[[int], str] = "client {}".format,
    memory: ClientMemory | None = None,
) -> tuple[State, float]:
    """One round: train this rank's clients, sum their contributions over all ranks by one all-reduce, average.

    Args:
        fabric: the ranks.
        global_state: state dict of the global model, the same on every rank.
        cohort: the clients of the round, in stacks.
        num_samples: training samples of every client, by position.
        train: trains one stack of clients from the global state.
        aggregator: turns client updates into the next global state.
        describe: names client, round and seed for messages, from the client's position.
        memory: takes what the clients keep until they take part again; None if they keep nothing.

    Returns:
        The mean of the clients' states, the same on every rank and for any number of ranks, and that of their losses.

    References:
        McMahan et al., arXiv:1602.05629, Algorithm 1.
    """
    place = {client: number for number, client in enumerate(sorted(itertools.chain(*cohort)))}
    total = aggregator.zeros(global_state, [num_samples[client] for client in place])
    losses = torch.zeros(len(place), dtype=torch.float64, device=total.device)
    kept = losses.new_zeros(len(place), memory.size if memory else 0)
    for stack in shard(cohort, num_samples, fabric.global_rank, fabric.world_size):
        update = train(stack, global_state)
        for client in aggregator.add(total, update):
            log.warning("%s has diverged and is left out of the round's average", describe(client))
        places = [place[client] for client in stack]
        losses[places] = update.losses.double()
        if memory and memory.size:
            kept[places] += memory.rows(update.memory, kept.dtype)  # no zero keeps its sign, with any number of ranks
    total, losses, kept = _sum(fabric, total, losses, kept)
    if memory:
        memory.put(list(place), kept)
    return aggregator.finish(total, like=global_state), float(losses.nanmean())


@dataclass
class FedAvg:
    """Federated training of one global model.

    Args:
        fabric: the ranks; launched already.
        net: the network to start from, the same on every rank.
        data: the clients.
        settings: rounds, participation, local training, aggregation.
        clients_per_stack: the most clients trained as one.
        seed: seed of cohorts and batches.
    """

    fabric: Fabric
    net: BodyHeadNet
    data: FederatedDataModule
    settings: Federation
    clients_per_stack: int
    seed: int

    def fit(self, files: GlobalModelFiles) -> bool:
        """Train from the start, or from the last checkpoint on.

        Args:
            files: keep the state of training.

        Returns:
            Whether all rounds are done; False if training was to stop before.

        Raises:
            FloatingPointError: if all clients of a round have diverged.
            OSError: on every rank, if the state cannot be written.
        """
        left_out = untrainable_clients(self.net, self.data)
        num_samples = [0 if k in left_out else len(client.train) for k, client in enumerate(self.data.clients)]
        trainer = LocalTrainer(self.fabric, self.net, self.data, self.settings, self.seed)
        aggregator = self.settings.aggregator(self.settings.weighting)
        num_clients = sum(count > 0 for count in num_samples)
        memory = ClientMemory(trainer.algorithm, self.net, num_clients, self.fabric.device)
        server = self._server()
        test = ValidationTest(self.fabric, self.net, trainer.samples, self.seed)
        with files:
            start = files.resume() or Checkpoint(0, {name: t.clone() for name, t in self.net.state_dict().items()}, [])
            state = {name: t.to(self.fabric.device) for name, t in start.state.items()}
            done, history = start.round, start.history
            memory.load_state_dict(start.memory)
            if server:
                server.load_state_dict(start.server)
            for round_ in range(done + 1, self.settings.rounds + 1):
                began = time.perf_counter()
                cohort = sample_cohort(num_samples, self.settings.participation, self.seed, round_)
                parts = stacks(cohort, num_samples, self.settings.batch_size, self.clients_per_stack)
                train = partial(trainer.train, round_=round_, memory=memory)
                describe = partial(self._describe, round_)
                try:
                    mean, loss = fedavg_round(
                        self.fabric, state, parts, num_samples, train, aggregator, describe, memory
                    )
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"In round {round_} of seed {self.seed} {error}."
                        " HINT: lower the learning rate, `--federation.optimizer.init_args.lr`."
                    ) from None
                state = server.step(state, mean) if server else mean
                accuracy, stop = test(state, files.stopping())
                row = History(round_, loss, accuracy, len(cohort), seconds=time.perf_counter() - began)
                done, history = round_, [*history, row]
                now = partial(_checkpoint, done, state, history, memory, server)
                files.save_round(now, row, last=stop or done == self.settings.rounds)
                note_progress()
                if stop:
                    break
            finished = done == self.settings.rounds
            if finished:
                files.save_model(state, memory.state_dict() if trainer.algorithm.personalizes else {})
        return finished

    def _server(self) -> ServerOptimizer | None:
        make = self.settings.server_optimizer
        return None if make is None else ServerOptimizer(make, self.net, self.fabric.device)

    def _describe(self, round_: int, client: int) -> str:
        return f"seed {self.seed}, round {round_}: client {self.data.clients[client].name}"


def _checkpoint(
    round_: int, state: State, history: list[History], memory: ClientMemory, server: ServerOptimizer | None
) -> Checkpoint:
    return Checkpoint(round_, state, history, memory.state_dict(), server.state_dict() if server else {})


class ValidationTest:
    """Tests global states on the clients' validation sets; the ranks share the work.

    Its pieces do not depend on the number of ranks. Of more than a thousand clients, a thousand drawn by the seed are
    tested on, so that the time of a round does not grow with the federation.

    Args:
        fabric: the ranks.
        net: the architecture; its values are overwritten.
        samples: the data on the device.
        seed: seed of the run.
    """

    MAX_CLIENTS = 1000

    def __init__(self, fabric: Fabric, net: BodyHeadNet, samples: DeviceSamples, seed: int) -> None:
        self.fabric, self.samples = fabric, samples
        self.net = net.to(fabric.device).to(memory_format=torch.channels_last).eval()
        sets = [client.val for client in samples.data.clients if len(client.val)]
        drawn = torch.randperm(len(sets), generator=generator(seed, "tested"))[: self.MAX_CLIENTS].sort().values
        sets = [sets[number] for number in drawn.tolist()]
        self.sizes = torch.tensor([len(val) for val in sets], dtype=torch.float64)
        owner = torch.arange(len(sets)).repeat_interleave(self.sizes.long())
        pieces = list(zip(chunks(torch.cat(sets)), chunks(owner), strict=True)) if sets else []
        self.pieces = pieces[fabric.global_rank :: fabric.world_size]
        self._images: dict[int, Tensor] = {}
        self._keeps = bool(sets) and samples.can_keep(sum(map(len, sets)))

    @torch.no_grad()
    def __call__(self, state: State, stop: bool) -> tuple[float, bool]:
        """Test a global state, and tell all ranks in passing whether one of them is to stop.

        Args:
            state: the global state.
            stop: whether this rank is to stop: a signal does not reach all ranks in the same round.

        Returns:
            The mean over clients of the accuracy, percent, NaN if no client has validation samples; whether to stop.
        """
        self.net.load_state_dict(state)
        correct = torch.zeros(len(self.sizes), dtype=torch.float64, device=self.fabric.device)
        for number, (index, owner) in enumerate(self.pieces):
            logits = self.net(self._normalized(number))
            hits = logits.argmax(-1) == self.samples.labels(index)
            correct.index_add_(0, owner.to(self.fabric.device), hits.double())
        correct, stops = _sum(self.fabric, correct, torch.tensor([float(stop)], device=self.fabric.device))
        return float((100 * correct.cpu() / self.sizes).mean()), bool(stops)

    def _normalized(self, number: int) -> Tensor:
        images = self._images.get(number)
        if images is None:
            images = self.samples.images(self.pieces[number][0], self.net.head.weight.dtype)
            if self._keeps:
                self._images[number] = images
        return images


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Tell every rank whether the flag is set on one of them."""
    return bool(_sum(fabric, torch.tensor(float(flag), device=fabric.device))[0])


def _sum(fabric: Fabric, *tensors: Tensor) -> list[Tensor]:
    """Add up tensors over all ranks by one all-reduce in float64; every rank gets the sums."""
    flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    if fabric.world_size > 1:
        distributed.all_reduce(flat)  # `fabric.all_reduce` would wait at a barrier of its own before
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
