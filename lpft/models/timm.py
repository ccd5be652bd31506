"""timm's networks, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from lpft.models.pretrained import SplitNet


class TimmNet(SplitNet):
    """A network of timm, such as ``resnet18`` or ``vit_tiny_patch16_224``; see `SplitNet` for its settings.

    timm is an extra: ``pip install lpft[timm]``. The layers keep timm's names, below ``body``. Networks whose logits do
    not come from one linear layer are refused. Names are those of ``timm.list_models()``.

    Raises:
        ValueError: also if timm is not installed.
    """

    library = "timm"
    listing = "timm.list_models()"
    derived = (
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "num_classes",
        "in_chans",
        "features_only",
    )

    def names(self) -> list[str]:
        """Return the names of timm's networks."""
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"Networks of timm need timm ({error}). HINT: pip install lpft[timm]") from error
        names: list[str] = timm.list_models()
        return names

    def make(self, name: str, num_classes: int, settings: dict[str, Any]) -> nn.Module:
        """Build a network with random weights."""
        import timm

        net: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **settings)
        return net
