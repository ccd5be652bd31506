"""The files of one global model during training: checkpoint, history and, at the end, the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from lightning.fabric import Fabric

from lpft.federated.checkpoint import Checkpoint, History
from lpft.models.weights import save_model
from lpft.runtime.progress import Steps
from lpft.runtime.signals import stop_requested
from lpft.storage.client_result import DamagedFileError
from lpft.storage.run import FLOWER, Run
from lpft.types import State

log = logging.getLogger("lpft")

WRITE_EVERY = 1.0
"""Seconds between two checkpoints; a killed process loses at most this time, and its current round."""


class Logs(Protocol):
    """Shows training while it runs."""

    def round(self, seed: int, history: Sequence[History]) -> None:
        """Log the rounds of `history` that were finished since the last call."""

    def close(self) -> None:
        """Log pending rounds, and close files and connections."""


class GlobalModelFiles:
    """Reads and writes the files of a global model, on the first rank only.

    If the first rank cannot write, all ranks must end together, because the others would wait for it. So after a
    failure nothing more is written, `stopping` returns True, and leaving the context raises an error on every rank.

    Args:
        fabric: the ranks.
        run: the run.
        seed: seed of the model.
        fingerprint: fingerprint of the settings of the model.
        steps: shows the progress in rounds.
        logs: receives the history after every round.
    """

    def __init__(
        self,
        fabric: Fabric,
        run: Run,
        seed: int,
        fingerprint: str,
        steps: Steps,
        logs: Logs | None = None,
    ) -> None:
        self.fabric, self.run, self.seed = fabric, run, seed
        self.fingerprint, self.steps, self.logs = fingerprint, steps, logs
        self._problem: str | None = None
        self._next_write = 0.0

    def __enter__(self) -> GlobalModelFiles:
        self.steps.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise OSError on every rank if the first rank could not write."""
        self.steps.__exit__(kind, error, trace)
        if error is None:
            self._agree()

    def resume(self) -> Checkpoint | None:
        """Return the last checkpoint if it was made with the same settings; the same on every rank."""
        # Only one rank reads: on network file systems, machines may see different files.
        start: Checkpoint | None = self.fabric.broadcast(self._load() if self.fabric.is_global_zero else None)
        if start is not None:
            self.steps.start_at(start.round)
        elif self.fabric.is_global_zero:
            self._write(lambda: self.run.global_file(self.seed, FLOWER).unlink(missing_ok=True))
        return start

    def save_round(self, checkpoint: Callable[[], Checkpoint], row: History, last: bool) -> None:
        """Log a round, and write checkpoint and history.

        They are written at most once per second, since writing takes as long as a short round.

        Args:
            checkpoint: function that returns the state after the round; called only if the state is written.
            row: entry of the history for this round.
            last: whether training ends or stops after this round, so that it is always written.
        """
        if last or time.monotonic() >= self._next_write:
            self._write(lambda: self._save_round(checkpoint()))
            self._next_write = time.monotonic() + WRITE_EVERY
        text = f"train loss {row.train_loss:.4f}  val accuracy {row.val_accuracy:.2f}%"
        self.steps.advance(text, row.num_clients)

    def save_model(self, state: State, own: State) -> None:
        """Write the global model, which marks the training as finished, and remove the checkpoint.

        Args:
            state: the global state after the last round.
            own: the entries that clients do not share; see `ClientMemory.state_dict`.
        """
        self._write(lambda: self._save_model(state, own))

    def take(self, state: State) -> None:
        """Write a pretrained model; remove the files of a model that was trained in this run.

        Raises:
            OSError: on every rank, if it cannot be written.
        """
        self._write(lambda: self._take(state))
        self._agree()

    def stopping(self) -> bool:
        """Return whether training must stop after this round."""
        return self._problem is not None or stop_requested()

    def _save_round(self, checkpoint: Checkpoint) -> None:
        checkpoint.save(self.run.global_file(self.seed, "checkpoint.pt"), self.fingerprint)
        checkpoint.write_history(self.run.global_file(self.seed, "history.csv"))
        if self.logs is not None:
            self.logs.round(self.seed, checkpoint.history)

    def _save_model(self, state: State, own: State) -> None:
        if own:
            save_model(self.run.client_models(self.seed), own, self.fingerprint)
        save_model(self.run.global_model(self.seed), state, self.fingerprint)
        self.run.global_file(self.seed, "checkpoint.pt").unlink(missing_ok=True)

    def _take(self, state: State) -> None:
        for pattern in ("checkpoint.pt", "history.csv", FLOWER, "clients.safetensors", "events.out.tfevents.*"):
            for path in self.run.global_model(self.seed).parent.glob(pattern):
                path.unlink()
        save_model(self.run.global_model(self.seed), state, self.fingerprint)

    def _load(self) -> Checkpoint | None:
        path = self.run.global_file(self.seed, "checkpoint.pt")
        if not path.exists():
            return None
        try:
            checkpoint, fingerprint = Checkpoint.load(path)
        except DamagedFileError as error:
            log.warning("%s is damaged (%s) and is ignored: training starts at round 1", path, error)
            return None
        return checkpoint if fingerprint == self.fingerprint else None

    def _write(self, write: Callable[[], None]) -> None:
        if self.fabric.is_global_zero and self._problem is None:
            try:
                write()
            except OSError as error:
                self._problem = str(error)

    def _agree(self) -> None:
        problem = self.fabric.broadcast(self._problem)
        if problem is not None:
            raise OSError(problem)
