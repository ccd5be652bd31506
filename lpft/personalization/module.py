"""The LightningModule that personalizes a stack of clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lpft.clients.batches import StackSamples
from lpft.clients.features import GlobalFeatures
from lpft.clients.stack import ClientStack, check_elementwise, client_losses
from lpft.methods.base import Method, Phase
from lpft.personalization.settings import Personalization
from lpft.seeding import generator, stable_seed
from lpft.types import State


@dataclass
class EpochRecord:
    """What is recorded of an epoch.

    Args:
        epoch: number of finished epochs; 0 is theta_G.
        phase: name of the phase.
        lr_head: learning rate of the head.
        lr_body: learning rate of the body; 0 while it is frozen.
        train_loss: mean cross-entropy over the epoch's steps, one per client.
        evaluation: what the evaluation after this epoch returned; None if there was none.
    """

    epoch: int
    phase: str
    lr_head: float | None
    lr_body: float | None
    train_loss: list[float]
    evaluation: Any = None


class Personalizer(LightningModule):
    """Fine-tunes theta_G for every client of a stack by one method.

    The optimizer has two groups, ``head`` and ``body``, from the start. The phase is a function of the epoch; it is not
    stored, so it cannot be restored wrongly. LP-FT is the phase LP (body frozen and in evaluation mode, head trained on
    theta_G's stored features) and then the phase FT (everything, fresh optimizer state, its own learning rate).

    Args:
        features: theta_G, its features, and the data.
        clients: positions of the K clients; they need the same number of steps per epoch.
        method: what is particular to the method.
        settings: budget, batch size and optimizer.
        seed: seed of the run; with epoch and client it determines the batches.
        evaluate: called after every ``eval_every`` epochs but the last, with the stack and whether its bodies are
            still theta_G's; what it returns is kept in the epoch's record.
    """

    def __init__(
        self,
        features: GlobalFeatures,
        clients: list[int],
        method: Method,
        settings: Personalization,
        seed: int,
        evaluate: Callable[[ClientStack, bool], Any] | None = None,
    ) -> None:
        super().__init__()
        self.stack = ClientStack(features.net, len(clients))
        self.method = method
        self.phases = method.phases(settings.epochs)
        self.settings = settings
        self.seed = seed
        self.samples = StackSamples.of(features.data, clients, settings.batch_size)
        self.memory: State = {}
        self.records: list[EpochRecord] = []
        self.global_features = features
        self._clients = clients
        self._evaluate = evaluate

    # The two phases

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer with its two groups, and the schedule that follows the phases."""
        optimizer = self.settings.optimizer(
            [
                {"name": "head", "params": self.stack.part("head")},
                {"name": "body", "params": self.stack.part("body")},
            ]
        )  # both at the optimizer's own rate: the one for full fine-tuning
        check_elementwise(optimizer, self.stack.num_clients)
        rate = optimizer.param_groups[0]["lr"]

        def head_factor(epoch: int) -> float:
            lr = self.phase(epoch).lr
            return 1.0 if lr is None else lr / rate

        def body_factor(epoch: int) -> float:
            return 0.0 if self.phase(epoch).trains == "head" else head_factor(epoch)

        return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, [head_factor, body_factor])}

    def phase(self, epoch: int) -> Phase:
        """Return the phase that an epoch, counted from 0, belongs to."""
        return self.phases[self._phase_number(epoch)]

    @property
    def probing(self) -> bool:
        """Whether the body is frozen in this epoch."""
        return self.phase(self.current_epoch).trains == "head"

    def on_train_start(self) -> None:
        """Enter the phase; the only start hook there is when training resumes."""
        self._enter_phase()

    def on_train_epoch_start(self) -> None:
        """Enter the epoch's phase; at its beginning, with fresh optimizer state."""
        torch.manual_seed(stable_seed(self.seed, "personalize", self.current_epoch, self.samples.names[0]))  # dropout
        if self.current_epoch == 0:
            self._prepare()
        if self.current_epoch in self._starts:
            self._begin_phase()
        self._enter_phase()
        self._rates = [group["lr"] for group in self._optimizer.param_groups]  # the schedule steps before the epoch's end
        self._loss = torch.zeros(self.stack.num_clients, device=self.device)

    def _enter_phase(self) -> None:
        self.stack.train()
        self.stack.freeze_body(self.probing)

    def _begin_phase(self) -> None:
        number = self._phase_number(self.current_epoch)
        self._optimizer.state.clear()
        if self.phases[number].restart:
            self.stack.load(self.global_features.net.state_dict())
        if self.method.overrides("begin"):
            params, self.memory = self._hook(lambda *client: self.method.begin(number, *client))
            self.stack.write(params)

    # The steps

    def train_dataloader(self) -> EpochBatches:
        """Return the batches of the current epoch."""
        return EpochBatches(self)

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> STEP_OUTPUT:
        """Return the sum over the clients of loss and penalty; no gradient of one client reaches another."""
        positions, uniforms = batch
        params = self._mixed(uniforms)
        losses = client_losses(self._logits(positions, params), self._labels.gather(1, positions))
        self._loss += losses.detach()
        if self.method.overrides("penalty"):
            losses = losses + self._hook(self.method.penalty)
        return losses.sum()

    def _logits(self, positions: Tensor, params: State | None) -> Tensor:
        if self.probing:
            stored = self._train_features
            features = stored.gather(1, positions.unsqueeze(-1).expand(-1, -1, stored.shape[-1]))
            return self.stack.classify(features, params=params)
        return self.stack(self._images(positions), params)

    def _mixed(self, uniforms: Tensor) -> State | None:
        if not self.method.overrides("mix"):
            return None
        return self._hook(self.method.mix, uniforms)  # type: ignore[no-any-return]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip every client's gradient by its own norm."""
        if self.settings.clip_norm is not None:
            self.stack.clip_gradients(self.settings.clip_norm)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Put back what the method restricts."""
        if self.method.overrides("project"):
            self.stack.write(self._hook(self.method.project))

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Record the epoch; end the phase, and with the last one the method."""
        epoch = self.current_epoch + 1
        if epoch in self._ends and self.method.overrides("end"):
            number = self._phase_number(self.current_epoch)
            self.memory = self._hook(lambda *client: self.method.end(number, *client))
        if epoch == self.num_epochs and self.method.overrides("finish"):
            self.stack.write(self._hook(self.method.finish))
        loss = (self._loss / self.samples.num_steps).tolist()
        self.records.append(EpochRecord(epoch, self.phase(epoch - 1).name, *self._rates, loss))
        every = self.settings.eval_every
        if self._evaluate and every and epoch % every == 0 and epoch < self.num_epochs:
            self.records[-1].evaluation = self._evaluate(self.stack, self.body_is_global)

    # What it knows

    @property
    def num_epochs(self) -> int:
        """Number of epochs over all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def body_is_global(self) -> bool:
        """Whether the bodies are still theta_G's: only heads have been trained so far."""
        done = self.phases[: self._phase_number(max(len(self.records) - 1, 0)) + 1]
        rewritten = any(self.method.overrides(hook) for hook in ("begin", "project", "finish"))
        return all(phase.trains == "head" for phase in done) and not rewritten

    @property
    def train_passes(self) -> float:
        """Cost in forward and backward passes of single samples, per training sample.

        A full pass is 1, a forward pass alone 1/3, and a head trained on stored features 0.
        """
        full = sum(phase.epochs for phase in self.phases if phase.trains == "all")
        probed = any(phase.trains == "head" for phase in self.phases)
        return full + probed / 3 + self.method.num_prepare_batches * self.settings.batch_size / max(self.samples.counts)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the method's memory, and the loss of each epoch."""
        checkpoint["lpft"] = {"memory": self.memory, "records": [vars(record) for record in self.records]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` has added."""
        self.memory = checkpoint["lpft"]["memory"]
        self.records = [EpochRecord(**record) for record in checkpoint["lpft"]["records"]]

    # Helpers

    @property
    def _starts(self) -> list[int]:
        return [end - phase.epochs for end, phase in zip(self._ends, self.phases, strict=True)]

    @property
    def _ends(self) -> list[int]:
        return list(accumulate(phase.epochs for phase in self.phases))

    def _phase_number(self, epoch: int) -> int:
        return min(sum(end <= epoch for end in self._ends), len(self.phases) - 1)

    @property
    def _optimizer(self) -> Optimizer:
        return self.optimizers().optimizer  # type: ignore[union-attr, return-value]

    @cached_property
    def _index(self) -> Tensor:
        return self.samples.index.to(self.device)

    @cached_property
    def _labels(self) -> Tensor:
        return self.global_features.samples.labels(self._index)

    @cached_property
    def _train_features(self) -> Tensor:
        return self.global_features.stacked(self._clients)

    def _images(self, positions: Tensor) -> Tensor:
        return self.global_features.images(self._index.gather(1, positions))

    def _prepare(self) -> None:
        """Let the method look at some batches of training data at theta_G."""
        if not self.method.overrides("prepare"):
            return
        order = self.samples.epoch(self.seed, "prepare")[: self.method.num_prepare_batches].transpose(0, 1)
        positions, shape = order.flatten(1).to(self.device), order.shape[1:]
        images = self._images(positions).unflatten(1, shape)
        labels = self._labels.gather(1, positions).unflatten(1, shape)
        net = self.global_features.net.eval()

        def loss(params: State, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(net, params, (images,)), labels)

        self.memory = self.stack.map(
            lambda params, images, labels: self.method.prepare(loss, params, images, labels),
            {name: p.detach() for name, p in self.stack.params().items()},
            images,
            labels,
        )

    def _hook(self, hook: Callable[..., Any], *extra: Tensor) -> Any:
        """Call a hook of the method for every client: parameters, theta_G's, memory, and more."""
        global_params = {name: p.detach() for name, p in self.global_features.net.named_parameters()}
        return self.stack.map(
            lambda params, memory, *extra: hook(params, global_params, memory, *extra),
            self.stack.params(),
            self.memory,
            *extra,
        )


@dataclass
class EpochBatches:
    """The batches of the module's current epoch: positions ``(K, batch)``, and uniform numbers for the method's `mix`.

    Args:
        module: whose current epoch it is.
    """

    module: Personalizer = field(repr=False)

    def __len__(self) -> int:
        return self.module.samples.num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        module, epoch = self.module, self.module.current_epoch
        positions = module.samples.epoch(module.seed, "personalize", epoch)
        count = module.method.uniforms_per_step
        uniforms = torch.stack(
            [
                torch.rand(len(self), count, generator=generator(module.seed, "mix", epoch, name))
                for name in module.samples.names
            ]
        )
        yield from zip(positions, uniforms.transpose(0, 1), strict=True)
