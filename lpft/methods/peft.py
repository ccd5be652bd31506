"""Parameter-efficient fine-tuning of transformers: adapters and low-rank updates, with and without linear probing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt

from lpft.methods.base import Phase
from lpft.methods.lpft import LPFT


class PEFT(LPFT):
    """Train the head and the modules that were added to a network for this; everything else keeps theta_G's bits.

    The network has to carry them: `lpft.models.vit.SmallViT` does with ``adapters: 64`` (Houlsby adapters after
    attention and MLP) or ``lora: 8`` (updates of the query's and value's weights). In theta_G they are the identity.
    With `lp_epochs` the head alone is trained first, while they stay so.

    Rate and epochs are those of full fine-tuning by default, to compare at an equal budget. A step counts as a whole
    pass, although gradients of frozen weights are not computed.

    Args:
        modules: ``adapter`` or ``lora``.
        lp_epochs: epochs of linear probing before; null: all epochs.
        lpft: the other settings of `LPFT`: ``lp_lr``, ``lr``, ``epochs``, ``head_init``, ``lp_solver``, ``bn``,
            ``flood``.

    References:
        Houlsby et al., arXiv:1902.00751 (adapters); Hu et al., arXiv:2106.09685 (LoRA); Chen et al., arXiv:2511.12695,
        combine such with LP-FT, in a part of the text that we do not have: all settings are ours.
    """

    def __init__(
        self, modules: Literal["adapter", "lora"] = "lora", lp_epochs: NonNegativeInt | None = 0, **lpft: Any
    ) -> None:
        super().__init__(lp_epochs=lp_epochs, **lpft)
        self.modules = modules

    def phases(self, budget: int) -> list[Phase]:
        """Return the phases of LP-FT, the second one restricted to the added modules and the head."""
        only = (f"*.{self.modules}.*",)
        return [phase if phase.trains == "head" else replace(phase, only=only) for phase in super().phases(budget)]
