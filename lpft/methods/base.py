"""The interface of personalization methods: hooks into fine-tuning.

A method is written for *one* client, as pure functions of that client's parameters. The engine maps them over the
clients of a stack (`ClientStack.map`), so a method never sees the client dimension and must not branch on values of
tensors (use `torch.where`). Hooks that are not overridden cost nothing.

The order of calls:

1. `phases` once, from the budget; `extend` once: returns the network to train;
2. for each client `prepare` once, at the global model: computes the method's `memory`, a dict of tensors, from batches
   of training data; `start_head` once, if the method sets `starts_head`: returns the initial head;
3. for each phase `begin`, then for each step `mix` -> forward pass -> loss + `penalty` + `batch_penalty` -> `gradient`
   -> clipping -> optimizer -> `project`, then `end`;
4. for each of `num_candidates` candidates: `candidate` returns parameters, which are scored on the client's validation
   data and passed to `judge`;
5. `finish` once: returns the personalized parameters; `merge` once: converts them to those of the plain network.

For a method without phases, step 3 is skipped. Only `start_head` is called on the CPU, one client at a time, so it may
use any solver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from jsonargparse.typing import NonNegativeFloat
from torch import Generator, Tensor

from lpft.clients.stack import check_patterns
from lpft.models.base import BodyHeadNet, check_trains
from lpft.models.lora import unused_layers
from lpft.types import DataSpec, State

Loss = Callable[[State, Tensor, Tensor], Tensor]
"""Mean cross-entropy of one client's parameters on images ``(batch, ...)`` with labels ``(batch,)``."""


@dataclass(frozen=True)
class HeadData:
    """The data from which `Method.start_head` computes a client's head.

    Args:
        features: the global model's features of the training samples, ``(num_train, k)``.
        labels: int64, ``(num_train,)``.
        val_features: the global model's features of the validation samples, ``(num_val, k)``.
        val_labels: int64, ``(num_val,)``.
        class_counts: number of the client's training samples of each class, int64, ``(num_classes,)``.
        federation_class_counts: the same, summed over all clients.
    """

    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor
    class_counts: Tensor
    federation_class_counts: Tensor


@dataclass(frozen=True)
class ComparedBatch:
    """A batch of one client under two models: the one in training, in its current mode, and the global model.

    The global model is in evaluation mode, and no gradient reaches it.

    Args:
        features: ``(batch, k)``.
        logits: ``(batch, num_classes)``.
        global_features: ``(batch, k)``.
        global_logits: ``(batch, num_classes)``.
    """

    features: Tensor
    logits: Tensor
    global_features: Tensor
    global_logits: Tensor


Trained = Literal["head", "all", "body"]
"""The part of the network that a phase trains."""

Mode = Literal["train", "eval"]
"""The mode of BatchNorm layers."""


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs with the same trained parameters and learning rates.

    Args:
        epochs: number of epochs.
        trains: ``head`` is linear probing: the body is frozen and in evaluation mode, so its norm statistics do not
            change either. ``all`` is full fine-tuning. ``body`` is the same with a frozen head.
        lr: learning rate; None is the rate of ``personalization.optimizer``.
        restart: whether the phase starts from the global model again, norm statistics included.
        lr_factor: multiplies the learning rate.
        head_factor: additionally multiplies the head's learning rate.
        bn: with ``eval``, BatchNorm layers use their running statistics and do not update them; their scales and shifts
            are trained either way.
        only: shell-style patterns: of the body, only parameters whose names match one of them are trained, even if the
            network itself does not train them. Empty: all parameters that the network trains.
    """

    epochs: int
    trains: Trained = "all"
    lr: float | None = None
    restart: bool = False
    lr_factor: float = 1.0
    head_factor: float = 1.0
    bn: Mode = "train"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if a value is not one of those above."""
        for name, choices in {"trains": get_args(Trained), "bn": get_args(Mode)}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{self}: `{name}` is one of {', '.join(choices)}.")
        if not isinstance(self.epochs, int) or self.epochs < 0:
            raise ValueError(f"{self}: `epochs` must be an integer of at least 0.")

    @property
    def name(self) -> str:
        """``LP``, ``FT`` or ``BODY``."""
        return {"head": "LP", "all": "FT", "body": "BODY"}[self.trains]


class Method(ABC):
    """Base class of all methods; the docstring of the module lists the order of calls.

    In every signature `params` are the client's trainable parameters and `global_params` those of the global model, by
    name, without a client dimension; `memory` is what `prepare`, `begin`, `project`, `end` or `judge` last returned.

    Args:
        flood: level b of loss flooding: a step minimizes ``|J - b| + b`` instead of the client's cross-entropy J, so
            that the loss increases below b. Penalties are added afterwards; recorded losses are J. null: no flooding.

    References:
        Ishida et al., arXiv:2002.08709 (flooding).
    """

    start: Literal["global", "initial", "pooled", "federated"] = "global"
    """The network to start from, whose parameters are also `global_params`: the global model, the initial network of
    federated training, a model trained on the pooled data of all clients, or the clients' own entries from a separate
    federated training of this method."""
    num_prepare_batches: int = 0
    """Maximum number of batches of training data that `prepare` gets; 0 if it is not used."""
    uniforms_per_step: int = 0
    """Number of uniform random numbers that `mix` gets in each step."""
    num_candidates: int = 0
    """Number of candidates: parameters that are scored on validation data before `finish`."""
    flood: float | None = None
    """Level of loss flooding, also for methods whose constructor does not take it."""
    starts_head: bool = False
    """Whether `start_head` is called; it costs a forward pass over the training and validation data."""
    counts_only: bool = False
    """Whether `start_head` needs only the class counts: it gets no features, and no forward pass is computed."""
    uses_buffers: bool = False
    """Whether `params` and `global_params` of `begin`, `end`, `candidate`, `judge` and `finish` contain the buffers too
    (norm statistics and their counters). Then `begin`, `candidate` and `finish` may return buffers."""
    keep_best: bool = False
    """Whether `finish` gets the parameters and norm statistics of the epoch with the best validation accuracy (on a
    tie, the earliest; the start counts as epoch 0) instead of the last epoch's. Clients without validation data keep
    the last epoch's."""
    refresh_norm: bool = False
    """Whether BatchNorm statistics are recomputed, by one pass over the client's training data, for every candidate and
    after `finish`; with `uses_buffers`, before `finish` instead, which then gets them. Set this if the method averages
    parameters."""

    follows: type[Method] | None = None
    """The method from whose trained models `candidate`, `judge` and `finish` start. If the experiment has a row of that
    method with the same settings, its models are loaded instead of being trained again."""

    def __init__(self, flood: NonNegativeFloat | None = None) -> None:
        self.flood = flood

    @abstractmethod
    def phases(self, budget: int) -> list[Phase]:
        """Return the phases of training; each starts with fresh optimizer state.

        Args:
            budget: ``personalization.epochs``.

        Raises:
            ValueError: if the method's settings do not fit the budget.
        """

    def check(self, net: BodyHeadNet) -> None:
        """Raise ValueError if the method cannot personalize a network."""
        return

    def extend(self, net: BodyHeadNet, generator: Generator) -> BodyHeadNet:
        """Return the network to train: the global model, or an extended copy of it that initially predicts the same.

        Args:
            net: the global model; must not be changed.
            generator: source of all randomness; it depends on the seed only.
        """
        return net

    def prepare(self, loss: Loss, params: State, images: Tensor, labels: Tensor) -> State:
        """Return the initial memory.

        Args:
            loss: loss of one batch in evaluation mode; differentiable with `torch.func.grad`.
            params: parameters of the global model.
            images: normalized, ``(num_prepare_batches, batch, channels, size, size)``.
            labels: int64, ``(num_prepare_batches, batch)``.
        """
        return {}

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Return the initial head.

        Args:
            head: the global model's head: ``weight`` ``(num_classes, k)`` and maybe ``bias`` ``(num_classes,)``.
            data: features, labels and class counts.
            generator: source of all randomness; it depends on seed and client only.
        """
        return head

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        """Return parameters and memory at the start of a phase; phases are counted from 0."""
        return params, memory

    def mix(self, params: State, global_params: State, memory: State, uniforms: Tensor) -> State:
        """Return the parameters of a step's forward pass.

        Args:
            params: as above; gradients flow to them through the returned parameters.
            global_params: as above.
            memory: as above.
            uniforms: random numbers in ``[0, 1)``, ``(uniforms_per_step,)``; they depend on seed, epoch, step and
                client only.
        """
        return params

    def penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        """Return a scalar that is added to the client's loss in every step."""
        raise NotImplementedError

    def batch_penalty(self, batch: ComparedBatch, memory: State) -> Tensor:
        """Return a scalar that is added to the client's loss in every step, from the batch's features and logits."""
        raise NotImplementedError

    def gradient(self, params: State, global_params: State, memory: State, gradients: State) -> State:
        """Return the gradients that replace `gradients`; they are clipped and then passed to the optimizer.

        Args:
            params: as above.
            global_params: as above.
            memory: as above.
            gradients: gradients of the parameters trained in this step, by name.
        """
        return gradients

    def project(self, params: State, global_params: State, memory: State) -> State | tuple[State, State]:
        """Return the parameters that replace `params` after every optimizer step, optionally with the memory."""
        return params

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Return the memory after a phase; phases are counted from 0."""
        return memory

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return the parameters of a candidate; candidates are counted from 0."""
        return params

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Return the memory after a candidate was scored.

        Args:
            number: number of the candidate.
            params: parameters of the candidate.
            global_params: as above.
            memory: as above.
            accuracy: its accuracy on the client's validation data, percent, ``()``; NaN without validation data.
        """
        return memory

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the personalized parameters after the last phase."""
        return params

    def merge(self, params: State) -> State:
        """Return the parameters to test and save: those of the plain network if they can be merged."""
        return params

    def leaves_body(self, budget: int) -> bool:
        """Return whether the body of the global model stays unchanged: only heads are trained, or nothing."""
        changes = (
            self.start != "global"
            or self.refresh_norm
            or any(map(self.overrides, ("extend", "begin", "project", "finish")))
        )
        return not changes and all(phase.trains == "head" for phase in self.phases(budget))

    def trains_norm(self, budget: int) -> bool:
        """Return whether BatchNorm's statistics change with the client's data."""
        phases = self.phases(budget)
        return self.refresh_norm or any(phase.trains != "head" and phase.bn == "train" for phase in phases)

    def is_followed(self, other: Method) -> bool:
        """Return whether another method, with its settings, trains the models that this method starts from."""
        settings = vars(other)
        return type(other) is self.follows and all(
            getattr(self, name) == value for name, value in settings.items() if name != "num_candidates"
        )

    def overrides(self, hook: str) -> bool:
        """Return whether the method overrides a hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)


def check_phases(name: str, method: Method, net: BodyHeadNet, budget: int, spec: DataSpec | None = None) -> None:
    """Raise ValueError if a method cannot train a network.

    Args:
        name: name of the method.
        method: the method.
        net: the network, of which only the architecture is used.
        budget: ``personalization.epochs``.
        spec: shape of the inputs, to check that the network calls the modules that the method adds; None: no check.
    """
    try:
        method.check(net)
        extended = method.extend(net, Generator())
        if not isinstance(extended, BodyHeadNet):
            raise ValueError(f"`extend` returned a value of type {type(extended).__name__}, not a `BodyHeadNet`.")
    except ValueError as error:
        raise ValueError(f"Method `{name}`: {error}") from error
    unused = unused_layers(extended, spec) if spec and method.overrides("extend") else []
    if unused:
        raise ValueError(
            f"Method `{name}`: {type(net).__name__} uses the weights of {', '.join(unused[:5])} without calling these"
            " layers, so that nothing can be added there. HINT: choose other layers by `targets`."
        )
    names = [parameter for parameter, _ in extended.named_parameters()]
    for phase in method.phases(budget):
        if phase.trains != "head" and phase.only:
            check_patterns(f"Method `{name}`: {type(net).__name__}", names, phase.only)
        elif phase.epochs:
            try:
                check_trains(extended, phase.trains)
            except ValueError as error:
                raise ValueError(f"Method `{name}`: {error}") from error


def check_type_of_phases(method: Method, budget: int) -> None:
    """Raise ValueError if `phases` does not return a list of phases, or the method's settings do not fit the budget."""
    phases = method.phases(budget)
    if not isinstance(phases, list) or not all(isinstance(phase, Phase) for phase in phases):
        raise ValueError(f"`phases` returned {phases!r}, which is not a list of `Phase`.")


def check_epochs(name: str, epochs: int, budget: int, of: str = "personalization.epochs") -> None:
    """Raise ValueError if the setting `name` exceeds its budget of epochs, the setting `of`."""
    if epochs > budget:
        raise ValueError(
            f"`{name}={epochs}` is more than the budget `{of}={budget}`."
            f" HINT: set `{name}` to {budget} or less, or `{of}` to {epochs} or more."
        )
