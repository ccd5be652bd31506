"""The LightningModule that personalizes a stack of clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from lpft.data.transforms import num_draws
from lpft.evaluation.matrix import Evaluator, StackEvaluation
from lpft.methods.base import Method
from lpft.models.base import BodyHeadNet
from lpft.personalization.batchnorm import keep_batch_norm
from lpft.personalization.data import StackData
from lpft.personalization.hooks import MethodHooks
from lpft.personalization.schedule import PhaseLR, Schedule
from lpft.personalization.settings import Personalization
from lpft.runtime.seeding import generator, seed_global_generator


@dataclass
class EpochRecord:
    """The record of an epoch.

    Args:
        epoch: number of finished epochs; 0 is the global model.
        phase: name of the phase.
        lr_head: learning rate of the head.
        lr_body: learning rate of the body; 0 while it is frozen.
        train_loss: mean cross-entropy over the samples of the epoch, one value per client.
        evaluation: test results after this epoch; None if the epoch was not tested.
    """

    epoch: int
    phase: str
    lr_head: float | None
    lr_body: float | None
    train_loss: list[float]
    evaluation: StackEvaluation | None = None


class Personalizer(LightningModule):
    """Fine-tunes the global model for every client of a stack by one method.

    The optimizer has two groups, ``head`` and ``body``, from the start. The phase is computed from the epoch, so
    checkpoints do not contain it. LP-FT is the phase LP (body frozen and in evaluation mode, head trained on
    the global model's stored features) and then the phase FT (everything, fresh optimizer state, its own learning
    rate).

    Args:
        evaluator: holds the global model and the data; tests the stack after every ``eval_every`` epochs but the last.
        clients: positions of the K clients; they need the same number of steps per epoch.
        method: the method.
        settings: budget, batch size and optimizer.
        seed: seed of the run; with epoch and client it determines the batches.
        start: the network to start from; by default the global model.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        clients: list[int],
        method: Method,
        settings: Personalization,
        seed: int,
        start: BodyHeadNet | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        features = evaluator.global_features
        start = method.extend(start or features.net, generator(seed, "extend"))
        self.stack = ClientStack(start, len(clients))
        self.data = StackData(features, clients, settings.batch_size)
        self.hooks = MethodHooks(method, self.stack, start, self.data, evaluator, seed)
        self.schedule = Schedule(method.phases(settings.epochs))
        self.settings = settings
        self.evaluator = evaluator
        self.seed = seed
        self.records: list[EpochRecord] = []

    # The phases

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer with its two groups, and the schedule of the phases."""
        optimizer = self.settings.optimizer(
            [
                {"name": "head", "params": self.stack.part("head")},
                {"name": "body", "params": self.stack.part("body")},
            ]
        )  # both at the optimizer's own rate: the one for full fine-tuning
        check_elementwise(optimizer, self.stack.num_clients)
        return {"optimizer": optimizer, "lr_scheduler": PhaseLR(optimizer, self.schedule.phases)}

    def on_train_start(self) -> None:
        """Enter the phase; when training resumes, only this start hook is called."""
        for tensors in (self.hooks.memory, self.hooks.best):
            tensors.update({name: tensor.to(self.device) for name, tensor in tensors.items()})
        self._enter_phase()

    def on_train_epoch_start(self) -> None:
        """Seed the epoch; at the start of a phase, enter it with fresh optimizer state."""
        epoch = self.current_epoch
        seed_global_generator(self.device, self.seed, "personalize", epoch, self.data.samples.names[0])  # for dropout
        if epoch == 0:
            self.hooks.start()
        if self.schedule.begins(epoch):
            self._optimizer.state.clear()
            if self.schedule.phase(epoch).restart:
                self.stack.load(self.hooks.start_net.state_dict())
            self.hooks.begin(self.schedule.number(epoch))
            self._enter_phase()
        if epoch == 0:
            self.hooks.keep_best()

    def _enter_phase(self) -> None:
        phase = self.schedule.phase(self.current_epoch)
        probing = phase.trains == "head"
        self.stack.train()
        self.stack.freeze_body(probing)
        self.stack.freeze_head(phase.trains == "body")
        if phase.only and not probing:
            self.stack.train_only(phase.only)
        if phase.bn == "eval":
            keep_batch_norm(self.stack.module)

    # The steps

    def train_dataloader(self) -> EpochBatches:
        """Return the batches of the current epoch, all of them as one."""
        return EpochBatches(self)

    def training_step(self, batches: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        """Train for one epoch: a step of Lightning is a whole epoch, since its loop costs more than small networks.

        Args:
            batches: positions ``(steps, K, batch)``, and the uniform numbers of `EpochBatches`.
        """
        optimizer = self._optimizer
        epoch_losses = []
        for positions, uniforms, draws in zip(*batches, strict=True):
            losses, compared = self._losses(positions, uniforms, draws)
            optimizer.zero_grad()
            self.hooks.objective(losses.mean(1), compared).sum().backward()  # no gradient of one client reaches another
            self.hooks.gradient()
            if self.settings.clip_norm is not None:
                self.stack.clip_gradients(self.settings.clip_norm)
            optimizer.step()
            self.hooks.project()
            epoch_losses.append(losses.detach())
        of_steps = (torch.stack(epoch_losses) * self._shares).sum(2)
        self._loss = sum(of_steps, torch.zeros_like(of_steps[0]))

    def _losses(self, positions: Tensor, uniforms: Tensor, draws: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Return the cross-entropies of a step's samples, ``(K, batch)``, and the inputs of `batch_penalty`."""
        params = self.hooks.mix(uniforms)
        probing = self.schedule.phase(self.current_epoch).trains == "head"
        if probing:
            features = self.data.features(positions, draws)
        else:
            features = self.stack.features(self.data.images(positions, draws), params=params)
        logits = self.stack.classify(features, params=params)
        compared = None
        if self.hooks.compares:
            with torch.no_grad():
                global_features = features if probing else self.data.features(positions, draws)
                global_logits = self.data.global_features.net.head(global_features)
            compared = features, logits, global_features, global_logits
        return sample_losses(logits, self.data.labels(positions)), compared

    def on_train_epoch_end(self) -> None:
        """Record the epoch, test if due, and at the end of a phase or of training call the method's hooks."""
        last, number = self.current_epoch, self.schedule.number(self.current_epoch)
        if self.schedule.ends(last):
            self.hooks.end(number)
        self.hooks.keep_best()
        done = last + 1
        if done == self.schedule.num_epochs:
            self.hooks.finish()
        lr_head, lr_body = (group["lr"] for group in self._optimizer.param_groups)
        self.records.append(EpochRecord(done, self.schedule.phase(last).name, lr_head, lr_body, self._loss.tolist()))
        every = self.settings.eval_every
        if every and done % every == 0 and done < self.schedule.num_epochs:
            self.records[-1].evaluation = self.evaluator.test(self.stack)
        self.lr_schedulers().step()  # type: ignore[union-attr]

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the method's memory, the best networks so far, and the record of each epoch."""
        records = [asdict(record) for record in self.records]
        checkpoint["lpft"] = {"memory": self.hooks.memory, "best": self.hooks.best, "records": records}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the entries that `on_save_checkpoint` added."""
        self.hooks.memory, self.hooks.best = checkpoint["lpft"]["memory"], checkpoint["lpft"]["best"]
        self.records = [EpochRecord(**record) for record in checkpoint["lpft"]["records"]]
        for record in self.records:
            if record.evaluation is not None:
                record.evaluation = StackEvaluation(**record.evaluation)  # type: ignore[arg-type]

    @property
    def _optimizer(self) -> Optimizer:
        return self.optimizers().optimizer  # type: ignore[union-attr]

    @cached_property
    def _shares(self) -> Tensor:
        return self.data.samples.shares().to(self.device)


@dataclass
class EpochBatches:
    """The batches of the module's current epoch, as a single item.

    It consists of positions ``(steps, K, batch)``, uniform numbers for the method's `mix` ``(steps, K, count)``, and
    those for augmentation ``(steps, K, batch, num_draws)``.

    Args:
        module: the module.
    """

    module: Personalizer = field(repr=False)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        seed, epoch, data = self.module.seed, self.module.current_epoch, self.module.data
        shape = data.samples.num_steps, self.module.hooks.method.uniforms_per_step
        uniforms = [torch.rand(shape, generator=generator(seed, "mix", epoch, name)) for name in data.samples.names]
        augment = data.global_features.data.augment
        yield (
            data.samples.epoch(seed, "personalize", epoch),
            torch.stack(uniforms, dim=1),
            data.samples.draws(num_draws(augment), seed, "augment", "personalize", epoch),
        )
