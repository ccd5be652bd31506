"""The state of federated training after a round, and its files."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lpft.models.weights import checksum, writing
from lpft.storage.atomic import replacing, write_atomically
from lpft.storage.client_result import DamagedFileError
from lpft.types import State


@dataclass(frozen=True)
class History:
    """One row of ``history.csv``.

    Args:
        round: number of the round, from 1.
        train_loss: mean over the cohort of the clients' losses in their last local epoch.
        val_accuracy: mean over clients of the global model's accuracy on their validation sets, percent.
        num_clients: size of the cohort.
        seconds: wall-clock time of the round.
    """

    round: int
    train_loss: float
    val_accuracy: float
    num_clients: int
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The server's state after a round.

    Args:
        round: number of the last finished round; 0 before the first.
        state: the global state, a state dict of the network.
        history: one entry per finished round.
        memory: the tensors that clients keep between rounds; see `ClientMemory.state_dict`.
        server: state of the server optimizer.
    """

    round: int
    state: State
    history: list[History]
    memory: State = field(default_factory=dict)
    server: State = field(default_factory=dict)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the checkpoint atomically; it can be loaded with ``weights_only=True``.

        Raises:
            OSError: if it cannot be written, as on a full disk.
        """
        tensors = {
            part: {name: t.cpu() for name, t in getattr(self, part).items()} for part in ("state", "memory", "server")
        }
        history = [astuple(row) for row in self.history]
        content = {"round": self.round, **tensors, "history": history, "fingerprint": fingerprint}
        with writing(path, RuntimeError), replacing(path) as temporary:
            torch.save({**content, "checksum": _checksum(content)}, temporary)

    @classmethod
    def load(cls, path: Path) -> tuple[Checkpoint, str]:
        """Load a checkpoint and the fingerprint of its settings.

        Raises:
            FileNotFoundError: if it does not exist.
            DamagedFileError: if it is truncated or was edited.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            intact = content.pop("checksum") == _checksum(content)  # `torch.load` does not check the bytes
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise DamagedFileError("it is not a complete checkpoint") from error
        if not intact:
            raise DamagedFileError("its checksum does not fit its content")
        history = [History(*row) for row in content["history"]]
        parts = [content[name] for name in ("memory", "server")]
        return cls(content["round"], content["state"], history, *parts), content["fingerprint"]

    def write_history(self, path: Path) -> None:
        """Write the history as CSV; undefined values are blank."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(History))
        for row in self.history:
            writer.writerow("" if value != value else value for value in astuple(row))
        write_atomically(path, text.getvalue())


def _checksum(content: dict[str, Any]) -> str:
    tensors = {f"{part}/{name}": t for part in ("state", "memory", "server") for name, t in content[part].items()}
    return checksum(tensors, repr([content["round"], content["history"], content["fingerprint"]]))
