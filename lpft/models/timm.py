"""timm's networks, by name."""

from __future__ import annotations

from typing import Any

from lpft.models.pretrained import SplitNet, check_name, check_settings
from lpft.models.weights import read_state
from lpft.types import DataSpec


class TimmNet(SplitNet):
    """A network of timm, such as ``resnet18`` or ``vit_tiny_patch16_224``, cut before its last linear layer.

    timm is an extra: ``pip install lpft[timm]``. Nothing is ever downloaded. The layers keep timm's names, below
    ``body``. Networks whose logits do not come from one linear layer are refused. Grey images are repeated to three
    channels.

    Args:
        spec: channels, size and number of classes of the data.
        name: as in ``timm.list_models()``.
        weights: a local file of weights to start from, by timm's names: safetensors or a torch state dict; null: random
            ones. Its last layer is taken if it is of as many classes as the data.
        new_head: do not take the last layer in any case.
        settings: further settings of ``timm.create_model``, such as ``{img_size: 64}`` for a ViT.

    Raises:
        FileNotFoundError: if there is no such file of weights.
        ValueError: if timm is not installed or has no such network, or the network does not fit the data or the
            weights, or cannot be cut so.
    """

    def __init__(
        self,
        spec: DataSpec,
        name: str,
        weights: str | None = None,
        new_head: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"The network `{name}` needs timm ({error}). HINT: pip install lpft[timm]") from error
        settings, label = settings or {}, f"timm's {name}"
        check_name(name, timm.list_models(), "timm", "timm.list_models()")
        check_settings(label, settings, TAKEN)
        state = None if weights is None else read_state(weights)
        try:
            net = timm.create_model(name, pretrained=False, num_classes=spec.num_classes, **settings)
        except (TypeError, AssertionError) as error:
            raise ValueError(f"{label} cannot be built: {error}. HINT: correct the network's `settings`.") from error
        super().__init__(net, spec, label, state, weights, new_head)


TAKEN = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "num_classes",
    "in_chans",
    "features_only",
)
"""Settings of timm that follow from the data, are given otherwise, or make no classifier."""
