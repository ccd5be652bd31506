"""What a method may change about fine-tuning.

A method is written for *one* client, as pure functions of that client's parameters. The engine maps them over the
clients of a stack (`ClientStack.map`), so a method never sees the client dimension and must not branch on values of
tensors (use `torch.where`). What it does not override costs nothing.

The order of calls for a client:

1. `phases` once, from the budget alone;
2. `prepare` once, at theta_G: computes the method's `memory`, a dict of tensors, from batches of training data;
3. for each phase `begin`, then for each step `mix` -> forward pass -> loss + `penalty` -> optimizer -> `project`,
   then `end`;
4. `finish` once: returns the personalized parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lpft.types import State

Loss = Callable[[State, Tensor, Tensor], Tensor]
"""Mean cross-entropy of one client's parameters on images ``(batch, ...)`` with labels ``(batch,)``."""


@dataclass(frozen=True)
class Phase:
    """Some epochs that are trained alike.

    Args:
        epochs: how many.
        trains: ``head`` is linear probing: the body is frozen and in evaluation mode, so that its norm statistics stay
            too. ``all`` is full fine-tuning.
        lr: learning rate; None is the rate of ``personalization.optimizer``.
        restart: begin at theta_G again, norm statistics included.
    """

    epochs: int
    trains: Literal["head", "all"] = "all"
    lr: float | None = None
    restart: bool = False

    @property
    def name(self) -> str:
        """``LP`` or ``FT``."""
        return "LP" if self.trains == "head" else "FT"


class Method(ABC):
    """Base of all methods; see the module for the order of calls.

    In every signature `params` are the client's trainable parameters and `global_params` those of theta_G, by name,
    without a client dimension; `memory` is whatever `prepare`, `begin` or `end` returned last.
    """

    num_prepare_batches: int = 0
    """How many batches of training data `prepare` gets; 0 if it is not used."""
    uniforms_per_step: int = 0
    """How many uniform random numbers `mix` gets in each step."""

    @abstractmethod
    def phases(self, budget: int) -> list[Phase]:
        """Divide the training into phases; each begins with fresh optimizer state.

        Args:
            budget: ``personalization.epochs``.

        Raises:
            ValueError: if the method's settings do not fit the budget.
        """

    def prepare(self, loss: Loss, params: State, images: Tensor, labels: Tensor) -> State:
        """Return the memory to start with.

        Args:
            loss: of one batch, in evaluation mode; differentiable with `torch.func.grad`.
            params: those of theta_G.
            images: normalized, ``(num_prepare_batches, batch, channels, size, size)``.
            labels: int64, ``(num_prepare_batches, batch)``.
        """
        return {}

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

    def project(self, params: State, global_params: State, memory: State) -> State:
        """Return the parameters that replace `params` after every step of the optimizer."""
        return params

    def end(self, phase: int, params: State, global_params: State, memory: State) -> State:
        """Return the memory after a phase, counted from 0."""
        return memory

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the personalized parameters after the last phase."""
        return params

    def overrides(self, hook: str) -> bool:
        """Tell whether the method does anything in a hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)


def check_epochs(name: str, epochs: int, budget: int) -> None:
    """Raise ValueError if a setting asks for more epochs than the budget has."""
    if epochs > budget:
        raise ValueError(
            f"`{name}={epochs}` is more than the budget `personalization.epochs={budget}`."
            f" HINT: set `--personalization.epochs={epochs}` or more."
        )
