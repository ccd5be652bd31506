"""Linear probing, then full fine-tuning: LP-FT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat
from torch import Generator

from lpft.methods.base import HeadData, Phase, check_epochs
from lpft.methods.ft import FT
from lpft.methods.heads import HeadInit, initial_head
from lpft.methods.logistic_head import logistic_head
from lpft.types import State


class LPFT(FT):
    """LP-FT: train the head on the frozen features of the global model, then all parameters like `FT`.

    Phase 1 starts from the global model including its head. The body is frozen and in evaluation mode, so its norm
    statistics do not change. Phase 2 has fresh optimizer state and its own learning rate. With ``lp_epochs: 0`` this is
    FT, bit for bit; with null it is linear probing, the ablation ``lp``.

    With ``lp_solver: logreg`` the head is fitted by logistic regression on the global model's features
    (`lpft.methods.logistic_head.logistic_head`). Phase 1 then has no epochs; phase 2 has ``epochs - lp_epochs``, as
    with SGD, so that both are comparable. ``lp_epochs: 0`` gives phase 2 the whole budget, as in Kumar et al.; with
    null only the head is fitted.

    Args:
        lp_epochs: epochs of phase 1, or those saved by fitting the head; phase 2 has the others. null: all epochs.
        lp_lr: learning rate of phase 1.
        head_init: initial head. ``global``: that of the global model; ``random``: a new one for each client; ``zero``;
            ``lstsq``: least squares of one-hot labels, in closed form.
        lp_solver: ``sgd``: the optimizer of ``personalization``; ``logreg``: see above.
        ft: settings of `FT`: ``epochs`` of both phases together, ``lr`` and ``bn`` of phase 2 (phase 1 always keeps
            BatchNorm's statistics, as Kumar et al. do in both phases), ``flood`` of both.

    Raises:
        ValueError: if both `head_init` and `lp_solver` determine the head.

    References:
        Kumar et al., arXiv:2202.10054 (LP-FT); Chen et al., arXiv:2511.12695 (for federated personalization). The split
        of the epochs and both learning rates are ours. Chen et al. start from the global model's head, Kumar et al.
        from a new one.
    """

    def __init__(
        self,
        lp_epochs: NonNegativeInt | None = 5,
        lp_lr: PositiveFloat = 1e-2,
        head_init: HeadInit = "global",
        lp_solver: Literal["sgd", "logreg"] = "sgd",
        **ft: Any,
    ) -> None:
        super().__init__(**ft)
        if lp_solver == "logreg" and head_init != "global":
            raise ValueError(
                f"`lp_solver=logreg` has no initial head, but `head_init={head_init}` is set."
                " HINT: leave out `head_init`, or set `lp_solver: sgd`."
            )
        self.lp_epochs = lp_epochs
        self.lp_lr = lp_lr
        self.head_init = head_init
        self.lp_solver = lp_solver
        self.starts_head = head_init != "global" or lp_solver == "logreg"

    def phases(self, budget: int) -> list[Phase]:
        """Return a phase of linear probing and a phase of full fine-tuning; phases without epochs are left out."""
        (tuning,) = super().phases(budget)
        lp_epochs = tuning.epochs if self.lp_epochs is None else self.lp_epochs
        check_epochs("lp_epochs", lp_epochs, tuning.epochs, "epochs" if self.epochs else "personalization.epochs")
        probing = Phase(0 if self.lp_solver == "logreg" else lp_epochs, trains="head", lr=self.lp_lr)
        return [phase for phase in (probing, replace(tuning, epochs=tuning.epochs - lp_epochs)) if phase.epochs]

    def start_head(self, head: State, data: HeadData, generator: Generator) -> State:
        """Return the head according to `head_init` or `lp_solver`."""
        if self.lp_solver == "logreg":
            return logistic_head(head, data)
        return initial_head(self.head_init, head, data, generator)
