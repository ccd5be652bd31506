"""One client's result for one seed and method. Its file is called a *cell*; a run resumes by its existing cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any

from lpft.storage.fingerprint import digest

STATUSES = ("ok", "diverged", "no_train", "no_test")


class DamagedFileError(Exception):
    """A file of a run cannot be read or does not match its checksum, since it was truncated or edited."""


@dataclass
class ClientResult:
    """One client's result for one seed and method.

    Accuracies are in percent. Undefined figures, such as the accuracy on a client without test samples, are None.

    Args:
        seed: seed of the run.
        method: the method's name in the configuration.
        client: name of the client.
        fingerprint: hash of all settings that the result depends on.
        status: one of `STATUSES`.
        clients: names of all clients, in the order of `accuracy`.
        accuracy: the client's row of the accuracy matrix: its model on every client's test set.
        local_before: the global model's accuracy on this client's test set.
        val_before: the global model's accuracy on this client's validation set.
        val_after: the personalized model's accuracy on this client's validation set.
        distortion_own: mean l2 distance of the features from the global model's, over the client's own test samples.
        distortion_all: the same over all clients' test samples.
        distortion_relative: `distortion_own` divided by the mean norm of the global model's features there.
        num_train: number of training samples.
        num_val: number of validation samples.
        num_test: number of test samples.
        train_passes: cost of training, in forward and backward passes of single samples.
        seconds: wall-clock time of training and evaluation, the client's share of its stack.
        clients_per_stack: how many clients were trained as one.
        device: device type on which it was computed.
        epochs: one entry per epoch: ``epoch`` (0 is the global model), ``phase``, ``lr_head``, ``lr_body``,
            ``train_loss``, and if the epoch was evaluated ``local``, ``global_all``, ``worst``, ``distortion``.
        train_accuracy: the personalized model's accuracy on the client's training samples, without augmentation.
        val_gained: number of validation samples that only the personalized model classifies correctly.
        val_lost: number of validation samples that only the global model classifies correctly.
        val_global: the personalized model's mean accuracy over the validation sets of all clients.
        num_classes: number of classes of the task.
        num_train_classes: number of classes among the client's training samples.
        groups: for each group of the data, by name: the personalized model's accuracy on the group's samples in the
            client's own test set (``local``) and in the test sets of all clients (``all``), and the numbers of these
            samples (``num_local``, ``num_all``).
        depth: distortion of every layer of the body over the client's own test samples, relative to the norm of the
            global model's outputs, by the layer's name in execution order; None if only the head was trained, or the
            status is not ok.
        line: one entry for each model that was tested on the line between the global (``a`` = 0) and the personalized
            one (``a`` = 1), without the ends: ``a``, ``local``, ``global_all``, ``global_others``, ``worst``,
            ``distortion``, and ``val``, the accuracy on the client's own validation data.
        scores: by name (`lpft.evaluation.scores.SCORES`), the score on the client's own test set (``local``) and its
            mean over the test sets of all clients (``global_all``).
        head_norms: Frobenius norm of the head's weight before and after personalization.
        num_testable: number of clients with test samples, if the model was tested on only some of them; `accuracy` is
            None for the others.
    """

    seed: int
    method: str
    client: str
    fingerprint: str
    status: str
    clients: list[str]
    accuracy: Sequence[float | None]
    local_before: float | None
    val_before: float | None
    val_after: float | None
    distortion_own: float | None
    distortion_all: float | None
    distortion_relative: float | None
    num_train: int
    num_val: int
    num_test: int
    train_passes: float
    seconds: float
    clients_per_stack: int
    device: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    train_accuracy: float | None = None
    val_gained: int | None = None
    val_lost: int | None = None
    val_global: float | None = None
    num_classes: int | None = None
    num_train_classes: int | None = None
    groups: dict[str, dict[str, Any]] | None = None
    depth: dict[str, float | None] | None = None
    line: list[dict[str, float | None]] = field(default_factory=list)
    scores: dict[str, dict[str, float | None]] | None = None
    head_norms: Sequence[float | None] | None = None
    num_testable: int | None = None

    @property
    def local(self) -> float | None:
        """The accuracy of the client's model on its own test set."""
        return self.accuracy[self.clients.index(self.client)]

    def to_json(self) -> str:
        """Return the content of the cell: JSON with a checksum."""
        content = {f.name: getattr(self, f.name) for f in fields(self)} | {"accuracy": list(self.accuracy)}
        return json.dumps({**content, "checksum": digest(content)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ClientResult:
        """Parse the content of a cell. Fields with a default may be missing, as in cells of earlier versions.

        Raises:
            DamagedFileError: if `to_json` did not write the text.
        """
        required = {f.name for f in fields(cls) if f.default is MISSING}
        try:
            content = json.loads(text)
            checksum = content.pop("checksum")
            complete = required <= content.keys() <= {f.name for f in fields(cls)}
            if checksum != digest(content) or not complete:
                raise DamagedFileError("its checksum does not match its content")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError("it is not complete") from error
        return cls(**content)


def grouped(results: Iterable[ClientResult], *keys: str) -> dict[Any, list[ClientResult]]:
    """Group results by one or several fields, in order of first appearance; several fields make a tuple as key."""
    groups: dict[Any, list[ClientResult]] = {}
    for result in results:
        groups.setdefault(attrgetter(*keys)(result), []).append(result)
    return groups
