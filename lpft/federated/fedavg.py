"""FedAvg: the round loop, top to bottom. The collectives of the package are in this file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from lightning.fabric import Fabric
from torch import Tensor

from lpft.clients.accuracy import AccuracyMatrix, percent
from lpft.clients.batches import stacks
from lpft.clients.device_data import DeviceSamples
from lpft.clients.features import chunks
from lpft.data.base import FederatedDataModule
from lpft.federated.aggregation import Aggregator, usable
from lpft.federated.checkpoint import Checkpoint, History
from lpft.federated.cohort import sample_cohort, shard
from lpft.federated.files import GlobalModelFiles
from lpft.federated.local import LocalTrainer
from lpft.federated.settings import Federation
from lpft.models.base import BodyHeadNet
from lpft.runtime.signals import note_progress
from lpft.types import ClientUpdate, State

log = logging.getLogger("lpft")


def fedavg_round(
    fabric: Fabric,
    global_state: State,
    cohort: list[list[int]],
    cost: Sequence[int],
    train: Callable[[list[int], State], Iterator[ClientUpdate]],
    aggregator: Aggregator,
    describe: Callable[[int], str] = "client {}".format,
) -> State:
    """One round: train this rank's clients, sum their contributions over all ranks, average.

    Args:
        fabric: the ranks.
        global_state: state dict of the global model, the same on every rank.
        cohort: the clients of the round, in stacks.
        cost: training samples of every client, by position.
        train: trains one stack of clients from the global state.
        aggregator: turns client updates into the next global state.
        describe: names client, round and seed for messages, from the client's position.

    Returns:
        The next global state, the same on every rank and for any number of ranks.

    References:
        McMahan et al., arXiv:1602.05629, Algorithm 1.
    """
    total = aggregator.zeros(global_state)
    for stack in shard(cohort, cost, fabric.global_rank, fabric.world_size):
        for update in train(stack, global_state):
            if usable(update):
                total += aggregator.contribution(update)
            else:
                log.warning("%s has diverged and is left out of the round's average", describe(update.client))
    total = _sum(fabric, total)
    return aggregator.finish(total, like=global_state)


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
            files: keep the state after every round.

        Returns:
            Whether all rounds are done; False if training was to stop before.

        Raises:
            FloatingPointError: if all clients of a round have diverged.
            OSError: on every rank, if the state cannot be written.
        """
        num_samples = [len(client.train) for client in self.data.clients]
        trainer = LocalTrainer(self.fabric, self.net, self.data, self.settings, self.seed)
        aggregator = self.settings.aggregator(self.settings.weighting)
        self.net = self.fabric.to_device(self.net)  # type: ignore[assignment]
        with files:
            now = files.resume() or Checkpoint(0, {name: t.clone() for name, t in self.net.state_dict().items()}, [])
            state = {name: t.to(self.fabric.device) for name, t in now.state.items()}
            for round_ in range(now.round + 1, self.settings.rounds + 1):
                began = time.perf_counter()
                cohort = sample_cohort(num_samples, self.settings.participation, self.seed, round_)
                parts = stacks(cohort, num_samples, self.settings.batch_size, self.clients_per_stack)
                train, describe = partial(trainer.train, round_=round_), partial(self._describe, round_)
                try:
                    state = fedavg_round(self.fabric, state, parts, num_samples, train, aggregator, describe)
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"In round {round_} of seed {self.seed} {error}."
                        " HINT: lower the learning rate, `--federation.optimizer.init_args.lr`."
                    ) from None
                loss = self._mean_loss(trainer, cohort)
                accuracy = self.val_accuracy(state, trainer.samples)
                row = History(round_, loss, accuracy, len(cohort), seconds=time.perf_counter() - began)
                now = Checkpoint(round_, state, [*now.history, row])
                files.save_round(now)
                note_progress()
                if any_rank(self.fabric, files.stopping()):
                    break
            finished = now.round == self.settings.rounds
            if finished:
                files.save_model(now)
        return finished

    def _describe(self, round_: int, client: int) -> str:
        return f"seed {self.seed}, round {round_}: client {self.data.clients[client].name}"

    def _mean_loss(self, trainer: LocalTrainer, cohort: list[int]) -> float:
        """Return the mean over the cohort of the clients' losses; every rank knows those of its own clients."""
        losses = torch.zeros(len(cohort), dtype=torch.float64, device=self.fabric.device)
        for place, client in enumerate(cohort):
            losses[place] = trainer.losses.pop(client, 0.0)
        return float(_sum(self.fabric, losses).nanmean())

    @torch.no_grad()
    def val_accuracy(self, state: State, samples: DeviceSamples) -> float:
        """Return the mean over clients of a global state's accuracy on their validation sets, percent.

        NaN if no client has validation samples. The ranks share the work; its pieces do not depend on their number.
        """
        self.net.load_state_dict(state)
        self.net.eval()
        index = torch.cat([client.val for client in self.data.clients])
        owner = torch.cat([torch.full_like(client.val, i) for i, client in enumerate(self.data.clients)])
        counts = AccuracyMatrix(1, len(self.data.clients)).to(self.fabric.device)
        pieces = list(zip(chunks(index), chunks(owner), strict=True)) if len(index) else []
        for i, o in pieces[self.fabric.global_rank :: self.fabric.world_size]:
            logits = self.net(samples.images(i, self.net.head.weight.dtype)).unsqueeze(0)
            counts.update(logits, samples.labels(i), o.to(self.fabric.device))
        return float(percent(_sum(self.fabric, counts.correct), _sum(self.fabric, counts.total)).nanmean())


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Tell every rank whether the flag is set on one of them: a signal does not reach all in the same round."""
    return bool(_sum(fabric, torch.tensor(float(flag), device=fabric.device)))


def _sum(fabric: Fabric, values: Tensor) -> Tensor:
    """Add up a tensor over all ranks; every rank gets the sum."""
    summed = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed
