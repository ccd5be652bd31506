"""WiSE-FT: interpolation between the global and the fine-tuned model."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jsonargparse.typing import ClosedUnitInterval
from torch import Tensor

from lpft.methods.base import Method
from lpft.methods.ft import FT
from lpft.methods.lpft import LPFT
from lpft.models.interpolation import interpolate
from lpft.types import State

STEPS = 10
"""Number of models that are scored with ``a: val``: a = 1.0, 0.9, ..., 0.1."""
WITHOUT_VAL = 0.5
"""Weight for clients without validation data."""


class WiSE(Method):
    """Interpolates between the global and a personalized model, ``(1 - a) * global + a * personalized``.

    BatchNorm statistics are interpolated like parameters; integer counters are those of the personalized model. With
    ``a: 1`` this is the method itself, with ``a: 0`` the global model, bit for bit.

    Args:
        a: weight of the personalized model. ``val``: the weight among 0.1, 0.2, ..., 1 with the best accuracy on the
            client's validation data, the smallest among equals; 0.5 without such data.
        method: settings of the method.

    References:
        Wortsman et al., arXiv:2109.01903 (WiSE-FT), who recommend 0.5. The choice by validation data is ours.
    """

    uses_buffers = True

    def __init__(self, a: ClosedUnitInterval | Literal["val"] = 0.5, **method: Any) -> None:
        super().__init__(**method)
        self.a = a
        self.num_candidates = STEPS if a == "val" else 0

    def candidate(self, number: int, params: State, global_params: State, memory: State) -> State:
        """Return the personalized model, then interpolated ones with decreasing weights."""
        return interpolate(global_params, memory, 1 - number / STEPS) if number else params

    def judge(self, number: int, params: State, global_params: State, memory: State, accuracy: Tensor) -> State:
        """Store the personalized model, and the best weight so far."""
        if number == 0:
            return {**params, "best": accuracy, "a": torch.where(accuracy.isnan(), WITHOUT_VAL, 1.0)}
        better = accuracy >= memory["best"]
        a = torch.where(better, 1 - number / STEPS, memory["a"])
        return {**memory, "best": torch.where(better, accuracy, memory["best"]), "a": a}

    def finish(self, params: State, global_params: State, memory: State) -> State:
        """Return the model with the fixed or chosen weight."""
        if self.a == "val":
            return interpolate(global_params, memory, memory["a"])
        return interpolate(global_params, params, self.a)


class WiseFT(WiSE, FT):
    """WiSE-FT: see `WiSE`; ``epochs``, ``lr``, ``bn`` and ``flood`` are the settings of `FT`."""

    follows = FT


class WiseLPFT(WiSE, LPFT):
    """WiSE after LP-FT: see `WiSE`; ``lp_epochs``, ``lp_lr`` and so on are the settings of `LPFT`."""

    follows = LPFT
