"""Fine-tune small made-up clients by any method."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lpft.clients.features import GlobalFeatures
from lpft.data.transforms import Augment
from lpft.evaluation.matrix import Evaluator
from lpft.methods.base import Method
from lpft.personalization.cost import train_passes
from lpft.personalization.module import Personalizer
from lpft.personalization.settings import Personalization
from lpft.personalization.trainer import quietly
from lpft.types import State
from tests.toy import largest_difference, same_bits, toy_features

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
ADAM = partial(torch.optim.Adam, lr=0.01)
LP_LR = 0.2


def settings(**changes: Any) -> Personalization:
    return Personalization(**{"epochs": 6, "batch_size": 16, "optimizer": SGD, **changes})


def personalizer(
    features: GlobalFeatures, clients: list[int], method: Method, chosen: Personalization, seed: int = 0
) -> Personalizer:
    return Personalizer(Evaluator(features), clients, method, chosen, seed)


def fit(module: Personalizer, resume: Path | None = None, callbacks: list[Any] | None = None) -> Personalizer:
    if not module.schedule.num_epochs:
        module.hooks.start()
        module.hooks.finish()
        return module
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=module.schedule.num_epochs,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        precision="64-true" if next(module.parameters()).dtype == torch.float64 else "32-true",
        callbacks=callbacks,
    )
    with quietly():
        trainer.fit(module, ckpt_path=resume, weights_only=True if resume else None)
    return module


def personalize(
    features: GlobalFeatures, clients: list[int], method: Method, chosen: Personalization | None = None
) -> list[State]:
    return fit(personalizer(features, clients, method, chosen or settings())).stack.states()


def passes(method: Method, norm: bool = False, epochs: int = 6, **data: Any) -> list[float]:
    """The cost of clients 1 and 2, which have 33 and 40 training samples in three batches of 16."""
    return train_passes(personalizer(toy_features(norm, **data), [1, 2], method, settings(epochs=epochs)))


def assert_stacked_equals_one_by_one(method: Method, norm: bool, tolerance: float = 1e-12, **changes: Any) -> None:
    """In float64; client 1 has 33 and client 2 has 40 training samples."""
    features, chosen = toy_features(norm), settings(**changes)
    stacked = personalize(features, [1, 2], method, chosen)
    for k, client in enumerate([1, 2]):
        assert largest_difference(stacked[k], personalize(features, [client], method, chosen)[0]) < tolerance


def assert_same_bits(one: Method, other: Method, norm: bool = True, **changes: Any) -> None:
    """For one client, in float32."""
    features, chosen = toy_features(norm, dtype=torch.float32), settings(**changes)
    (a,), (b,) = (personalize(features, [1], method, chosen) for method in (one, other))
    assert same_bits(a, b)


class EveryEpoch(Checkpoint):
    """Saves a checkpoint after every epoch, named by the number of epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch + 1}.ckpt")


def assert_resumed_equals_uninterrupted(
    method: Method, stops: list[int], folder: Path, augment: Augment | None = None, **changes: Any
) -> None:
    """With checkpoints after each of the numbers of epochs in `stops`, in float32."""
    features, chosen = toy_features(norm=True, dtype=torch.float32), settings(**changes)
    features.data.augment = augment

    def module() -> Personalizer:
        return personalizer(features, [1, 2], method, chosen)

    through = fit(module(), callbacks=[EveryEpoch(folder)])
    for stop in stops:
        resumed = fit(module(), resume=folder / f"{stop}.ckpt")
        for a, b in zip(through.stack.states(), resumed.stack.states(), strict=True):
            assert same_bits(a, b)
        assert [vars(r) for r in through.records] == [vars(r) for r in resumed.records]
