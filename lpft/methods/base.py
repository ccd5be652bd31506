"""What a method may change about fine-tuning.

A method is written for *one* client, as pure functions of that client's parameters. The engine maps them over the
clients of a stack (`ClientStack.map`), so a method never sees the client dimension and must not branch on values of
tensors (use `torch.where`). What it does not override costs nothing.

The order of calls:

1. `phases` once, from the budget alone; `extend` once: the network to train;
2. for each client `prepare` once, at the global model: computes the method's `memory`, a dict of tensors, from batches
   of training data; `start_head` once, if the method sets `starts_head`: another head to start from;
3. for each phase `begin`, then for each step `mix` -> forward pass -> loss + `penalty` + `batch_penalty` -> `gradient`
   -> clipping -> optimizer -> `project`, then `end`;
4. for each of `num_candidates` the parameters that `candidate` returns are scored on the client's validation data, and
   passed to `judge`;
5. `finish` once: returns the personalized parameters; `merge` once, which turns them into those of the plain network.

A method without phases goes through 1, 2, 4 and 5. `start_head` alone is called on the host, one client after the
other, so that it may use any solver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeFloat
from torch import Generator, Tensor

from lpft.clients.stack import check_patterns
from lpft.models.base import BodyHeadNet
from lpft.models.lora import unused_layers
from lpft.types import DataSpec, State

Loss = Callable[[State, Tensor, Tensor], Tensor]
"""Mean cross-entropy of one client's parameters on images ``(batch, ...)`` with labels ``(batch,)``."""


@dataclass(frozen=True)
class HeadData:
    """What a client's head can be computed from.

    Args:
        features: the global model's of the training samples, ``(num_train, k)``.
        labels: int64, ``(num_train,)``.
        val_features: the global model's of the validation samples, ``(num_val, k)``.
        val_labels: int64, ``(num_val,)``.
        class_counts: number of the client's training samples of each class, int64, ``(num_classes,)``.
        federation_class_counts: the same of all clients together.
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


@dataclass(frozen=True)
class Phase:
    """Some epochs that are trained alike.

    Args:
        epochs: how many.
        trains: ``head`` is linear probing: the body is frozen and in evaluation mode, so that its norm statistics stay
            too. ``all`` is full fine-tuning. ``body`` is the same with a frozen head.
        lr: learning rate; None is the rate of ``personalization.optimizer``.
        restart: begin at the global model again, norm statistics included.
        lr_factor: multiplies the learning rate.
        head_factor: multiplies the head's learning rate once more.
        bn: ``eval`` lets BatchNorm layers use their running statistics, and keep them, also where all is trained;
            their scales and shifts are trained either way.
        only: of the body, train those parameters only whose names match one of these patterns, as file names do, even
            if the network itself does not train them. Empty: all that the network trains.
    """

    epochs: int
    trains: Literal["head", "all", "body"] = "all"
    lr: float | None = None
    restart: bool = False
    lr_factor: float = 1.0
    head_factor: float = 1.0
    bn: Literal["train", "eval"] = "train"
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``LP``, ``FT`` or ``BODY``."""
        return {"head": "LP", "all": "FT", "body": "BODY"}[self.trains]


class Method(ABC):
    """Base of all methods; see the module for the order of calls.

    In every signature `params` are the client's trainable parameters and `global_params` those of the global model, by
    name, without a client dimension; `memory` is whatever `prepare`, `begin`, `project`, `end` or `judge` returned
    last.

    Args:
        flood: level b of loss flooding: a step minimizes ``|J - b| + b`` instead of the client's cross-entropy J, so
            that the loss ascends below b. Penalties are added to that, and recorded losses are J. null: no flooding.

    References:
        Ishida et al., arXiv:2002.08709 (flooding).
    """

    start: Literal["global", "initial", "pooled", "federated"] = "global"
    """The network to start from, which is also what `global_params` are of: the global model, the initial network of
    federated training, a model trained on the pooled data of all clients, or what clients trained for themselves in
    a federation of the method's own."""
    num_prepare_batches: int = 0
    """How many batches of training data `prepare` gets at most; 0 if it is not used."""
    uniforms_per_step: int = 0
    """How many uniform random numbers `mix` gets in each step."""
    num_candidates: int = 0
    """How many sets of parameters are scored on validation data before `finish`."""
    flood: float | None = None
    """Level of loss flooding, also for methods whose constructor does not take it."""
    starts_head: bool = False
    """Whether `start_head` is called; it costs a forward pass over the training and validation data."""
    counts_only: bool = False
    """Whether class counts are all that `start_head` needs: it gets no features, and costs nothing."""
    uses_buffers: bool = False
    """Whether `params` and `global_params` of `begin`, `end`, `candidate`, `judge` and `finish` contain the buffers as
    well (norm statistics and their counters). What `begin`, `candidate` and `finish` return may then contain some."""
    keep_best: bool = False
    """Whether `finish` gets the parameters and norm statistics of the epoch with the best validation accuracy (of equal
    ones the earliest; the start counts as epoch 0) instead of the last epoch's. Clients without validation data keep
    the last epoch's."""
    refresh_norm: bool = False
    """Whether BatchNorm statistics are computed anew, by one pass over the client's training data, for every candidate
    and after `finish`; before `finish`, which then sees them, if it `uses_buffers`. To be set where parameters are
    averaged."""

    follows: type[Method] | None = None
    """The method whose trained models this one starts its `candidate`, `judge` and `finish` from. Where a row of that
    method with the same settings is there, its models are taken instead of training them again."""

    def __init__(self, flood: NonNegativeFloat | None = None) -> None:
        self.flood = flood

    @abstractmethod
    def phases(self, budget: int) -> list[Phase]:
        """Divide the training into phases; each begins with fresh optimizer state.

        Args:
            budget: ``personalization.epochs``.

        Raises:
            ValueError: if the method's settings do not fit the budget.
        """

    def check(self, net: BodyHeadNet) -> None:
        """Raise ValueError if the method cannot personalize a network."""
        return

    def extend(self, net: BodyHeadNet, generator: Generator) -> BodyHeadNet:
        """Return the network to train: the global model, or an extended copy of it that predicts the same at first.

        Args:
            net: the global model; not to be changed.
            generator: source of all randomness; it depends on the seed only.
        """
        return net

    def prepare(self, loss: Loss, params: State, images: Tensor, labels: Tensor) -> State:
        """Return the memory to start with.

        Args:
            loss: of one batch, in evaluation mode; differentiable with `torch.func.grad`.
            params: those of the global model.
            images: normalized, ``(num_prepare_batches, batch, channels, size, size)``.
            labels: int64, ``(num_prepare_batches, batch)``.
        """
        return {}

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Return the head to start from.

        Args:
            head: the global model's: ``weight`` ``(num_classes, k)`` and, if it has one, ``bias`` ``(num_classes,)``.
            data: what it can be computed from.
            generator: source of all randomness; it depends on seed and client only.
        """
        return head

    def begin(self, phase: int, params: State, global_params: State, memory: State) -> tuple[State, State]:
        """Return parameters and memory with which a phase, counted from 0, begins."""
        return params, memory

    def mix(self, params: State, global_params: State, memory: State, uniforms: Tensor) -> State:
        """Return the parameters of a step's forward pass.

        Args:
            params: as above; gradients reach them through what is returned.
            global_params: as above.
            memory: as above.
            uniforms: random numbers in ``[0, 1)``, ``(uniforms_per_step,)``; they depend on seed, epoch, step and
                client only.
        """
        return params

    def penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        """Return what is added to the client's loss in every step."""
        raise NotImplementedError

    def batch_penalty(self, batch: ComparedBatch, memory: State) -> Tensor:
        """Return what is added to the client's loss in every step, from features and logits of the step's batch."""
        raise NotImplementedError

    def gradient(self, params: State, global_params: State, memory: State, gradients: State) -> State:
        """Return the gradients that are clipped and then given to the optimizer, instead of `gradients`.

        Args:
            params: as above.
            global_params: as above.
            memory: as above.
            gradients: of the parameters that are trained in this step, by name.
        """
        return gradients

    def project(self, params: State, global_params: State, memory: State) -> State | tuple[State, State]:
        """Return the parameters that replace `params` after every step of the optimizer; or these and the memory."""
        return params

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Return the memory after a phase, counted from 0."""
        return memory

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return the parameters that are scored next; they are counted from 0."""
        return params

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Return the memory after a candidate was scored.

        Args:
            number: of the candidate.
            params: those of the candidate.
            global_params: as above.
            memory: as above.
            accuracy: of the candidate on the client's validation data, percent, ``()``; NaN if there are none.
        """
        return memory

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the personalized parameters after the last phase."""
        return params

    def merge(self, params: State) -> State:
        """Return the parameters to test and save: those of the plain network, if `extend` added what can be merged."""
        return params

    def leaves_body(self, budget: int) -> bool:
        """Tell whether the body of the global model stays as it is, so that only heads are trained, or nothing."""
        changes = (
            self.start != "global"
            or self.refresh_norm
            or any(map(self.overrides, ("extend", "begin", "project", "finish")))
        )
        return not changes and all(phase.trains == "head" for phase in self.phases(budget))

    def trains_norm(self, budget: int) -> bool:
        """Tell whether BatchNorm's statistics change with the client's data."""
        phases = self.phases(budget)
        return self.refresh_norm or any(phase.trains != "head" and phase.bn == "train" for phase in phases)

    def is_followed(self, other: Method) -> bool:
        """Tell whether another method, with its settings, trains the models that this one starts from."""
        settings = vars(other)
        return type(other) is self.follows and all(
            getattr(self, name) == value for name, value in settings.items() if name != "num_candidates"
        )

    def overrides(self, hook: str) -> bool:
        """Tell whether the method does anything in a hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)


def check_phases(name: str, method: Method, net: BodyHeadNet, budget: int, spec: DataSpec | None = None) -> None:
    """Raise ValueError if a method cannot train a network.

    Args:
        name: name of the method.
        method: the method.
        net: the network; its values do not matter.
        budget: ``personalization.epochs``.
        spec: size of the images; None: it is not checked that the network calls the modules that the method adds.
    """
    try:
        method.check(net)
        extended = method.extend(net, Generator())
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


def check_epochs(name: str, epochs: int, budget: int, of: str = "personalization.epochs") -> None:
    """Raise ValueError if a setting asks for more epochs than its budget has, which is the setting `of`."""
    if epochs > budget:
        raise ValueError(
            f"`{name}={epochs}` is more than the budget `{of}={budget}`."
            f" HINT: set `{name}` to {budget} or less, or `{of}` to {epochs} or more."
        )
