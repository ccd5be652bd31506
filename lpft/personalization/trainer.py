"""Lightning's Trainer, set up for stacks on one device."""

from __future__ import annotations

import copy
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from lpft.personalization.module import Personalizer
from lpft.runtime.devices import Devices, OwnProcesses


class StackTrainer:
    """Trains one stack after the other, each with a Trainer of its own.

    The constructor of a Trainer searches all installed packages for callbacks, which takes longer than an epoch of
    heads. So it is called once, and copied for every stack.

    Args:
        devices: the section `trainer`.
        device: the device to use.
        folder: Lightning's root folder; nothing is written to it.
    """

    def __init__(self, devices: Devices, device: torch.device, folder: Path) -> None:
        self.device = device
        with quietly():
            self._template = Trainer(
                accelerator=devices.kind,
                devices=1 if device.index is None else [device.index],
                precision=devices.precision,
                max_epochs=-1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                plugins=[OwnProcesses()],
            )

    def fit(self, module: Personalizer) -> None:
        """Train a module for all epochs of its method, and leave it on the device."""
        trainer = copy.deepcopy(self._template)
        trainer.fit_loop.max_epochs = module.schedule.num_epochs
        with quietly(), _interruptible(trainer), torch.random.fork_rng(devices=[]):
            trainer.fit(module)
        module.to(self.device)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C, for which the Trainer would ignore SIGINT and exit."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted or not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise error.__context__ from None


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the Trainer's messages about settings that are intended."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
