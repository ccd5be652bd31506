"""Fine-tuning that stops where validation accuracy was best."""

from __future__ import annotations

from lpft.methods.ft import FT


class EarlyStoppedFT(FT):
    """Early-stopped fine-tuning: the epoch with the best validation accuracy, the global model as epoch 0 included.

    The control ``ft_early``: where it does as well as a method that restrains fine-tuning otherwise, that restraint
    was only a way to train less. All epochs are run, each is scored on the client's validation data, and all of that
    counts as cost. Of equally good epochs the earliest is taken. A client without validation data has nothing to
    choose on: for it this is FT.

    Args:
        ft: the settings of `FT`: ``epochs``, ``lr``, ``bn``, ``flood``.

    References:
        Not in Chen et al., arXiv:2511.12695; the control and its settings are ours.
    """

    keep_best = True
