"""Fine-tuning that keeps the epoch with the best validation accuracy."""

from __future__ import annotations

from lpft.methods.ft import FT


class EarlyStoppedFT(FT):
    """Early-stopped fine-tuning: keeps the epoch with the best validation accuracy; epoch 0 is the global model.

    The control ``ft_early``: if it performs as well as a method that restrains fine-tuning, this method may only train
    less. All epochs are run and scored on the client's validation data, which counts as cost. Among equally good
    epochs, the earliest is chosen. For clients without validation data this is FT.

    Args:
        ft: settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    References:
        Not in Chen et al., arXiv:2511.12695; the control and its settings are ours.
    """

    keep_best = True
