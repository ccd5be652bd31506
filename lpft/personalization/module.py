"""The LightningModule that personalizes a stack of clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from lpft.evaluation.matrix import Evaluator
from lpft.methods.base import HeadData, Method, Phase
from lpft.personalization.batchnorm import has_batch_norm, keep_batch_norm, refresh_batch_norm
from lpft.personalization.settings import Personalization
from lpft.runtime.seeding import generator, stable_seed
from lpft.types import State


@dataclass
class EpochRecord:
    """What is recorded of an epoch.

    Args:
        epoch: number of finished epochs; 0 is theta_G.
        phase: name of the phase.
        lr_head: learning rate of the head.
        lr_body: learning rate of the body; 0 while it is frozen.
        train_loss: mean cross-entropy over the epoch, every sample counted once, one per client.
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
        self.best: State = {}
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
            phase = self.phase(epoch)
            return phase.lr_factor * (1.0 if phase.lr is None else phase.lr / rate)

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
        self.memory, self.best = ({name: t.to(self.device) for name, t in s.items()} for s in (self.memory, self.best))
        self._enter_phase()

    def on_train_epoch_start(self) -> None:
        """Enter the epoch's phase; at its beginning, with fresh optimizer state."""
        torch.manual_seed(stable_seed(self.seed, "personalize", self.current_epoch, self.samples.names[0]))  # dropout
        if self.current_epoch == 0:
            self._prepare()
            self._start_heads()
        if self.current_epoch in self._starts:
            self._begin_phase()
        if self.current_epoch == 0:
            self._keep_best()
        self._enter_phase()
        # The schedule steps before the epoch's end.
        self._rates: list[float] = [group["lr"] for group in self._optimizer.param_groups]
        self._loss = torch.zeros(self.stack.num_clients, device=self.device)

    def _enter_phase(self) -> None:
        self.stack.train()
        self.stack.freeze_body(self.probing)
        phase = self.phase(self.current_epoch)
        if phase.only and not self.probing:
            self.stack.train_only(phase.only)
        if phase.bn == "eval":
            keep_batch_norm(self.stack.module)

    def _begin_phase(self) -> None:
        number = self._phase_number(self.current_epoch)
        self._optimizer.state.clear()
        if self.phases[number].restart:
            self.stack.load(self.global_features.net.state_dict())
        if self.method.overrides("begin"):
            params, memory = self._hook(partial(self.method.begin, number))
            self._remember(memory)
            self.stack.write(params)

    # The steps

    def train_dataloader(self) -> EpochBatches:
        """Return the batches of the current epoch."""
        return EpochBatches(self)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> STEP_OUTPUT:
        """Return the sum over the clients of loss and penalty; no gradient of one client reaches another."""
        positions, uniforms, draws = batch
        params = self._mixed(uniforms)
        each = sample_losses(self._logits(positions, draws, params), self._labels.gather(1, positions))
        self._loss += (each.detach() * self._shares[step]).sum(1)
        losses = each.mean(1)
        if self.method.flood is not None:
            losses = (losses - self.method.flood).abs() + self.method.flood
        if self.method.overrides("penalty"):
            losses = losses + self._hook(self.method.penalty)
        return losses.sum()

    def _logits(self, positions: Tensor, draws: Tensor, params: State | None) -> Tensor:
        if self.probing:
            return self.stack.classify(self._frozen_features(positions, draws), params=params)
        return self.stack(self._images(positions, draws), params)

    def _frozen_features(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return theta_G's features of a batch, ``(K, batch, k)``: stored ones, unless the images change."""
        if self._augments:
            return self.global_features.embed(self._images(positions, draws))
        stored = self._train_features
        return stored.gather(1, positions.unsqueeze(-1).expand(-1, -1, stored.shape[-1]))

    def _mixed(self, uniforms: Tensor) -> State | None:
        if not self.method.overrides("mix"):
            return None
        return self._hook(self.method.mix, uniforms)

    @torch.no_grad()
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Let the method change the gradients, and clip every client's by its own norm."""
        if self.method.overrides("gradient"):
            gradients = self.stack.gradients()
            for name, gradient in self._hook(self.method.gradient, gradients).items():
                gradients[name].copy_(gradient)
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
            self._remember(self._hook(partial(self.method.end, number)))
        self._keep_best()
        if epoch == self.num_epochs:
            self._finish()
        lr_head, lr_body = self._rates
        self.records.append(EpochRecord(epoch, self.phase(epoch - 1).name, lr_head, lr_body, self._loss.tolist()))
        every = self.settings.eval_every
        if self._evaluate and every and epoch % every == 0 and epoch < self.num_epochs:
            self.records[-1].evaluation = self._evaluate(self.stack, self.body_is_global)

    def _keep_best(self) -> None:
        """Keep the networks as they are now, of those clients for which they are the best so far."""
        if not self.method.keep_best:
            return
        now = {**self.stack.params(), **self.stack.net_buffers(), "accuracy": self._val_accuracy()}
        if not self.best:
            self.best = {name: tensor.detach().clone() for name, tensor in now.items()}
            return
        # Without validation data, the accuracy is NaN: such clients keep the latest.
        better = (now["accuracy"] > self.best["accuracy"]) | now["accuracy"].isnan()
        for name, tensor in now.items():
            chosen = better.view(-1, *[1] * (tensor.dim() - 1))
            self.best[name] = torch.where(chosen, tensor.detach(), self.best[name])

    def _finish(self) -> None:
        """Let the method choose among candidates, and finish."""
        self.stack.write({name: tensor for name, tensor in self.best.items() if name != "accuracy"})
        for number in range(self.method.num_candidates):
            self.stack.write(self._hook(partial(self.method.candidate, number)))
            self._refresh_norm()
            self._remember(self._hook(partial(self.method.judge, number), self._val_accuracy()))
        if self.method.overrides("finish"):
            self.stack.write(self._hook(self.method.finish))
        self._refresh_norm()

    def _refresh_norm(self) -> None:
        if self.method.refresh_norm and has_batch_norm(self.stack.module):
            batches = self.samples.epoch(self.seed, "refresh")
            refresh_batch_norm(self.stack, (self._images(positions.to(self.device)) for positions in batches))

    def _val_accuracy(self) -> Tensor:
        """Return the accuracies on validation data, ``(K,)``; minus infinity for networks that have diverged."""
        accuracy = self._evaluator.val(self.stack, self._clients).to(self.device, torch.float32)
        return torch.where(self.stack.finite(), accuracy, -torch.inf)

    def _remember(self, memory: State) -> None:
        """Keep what a hook returned, as copies: it may be parameters that go on being trained."""
        self.memory = {name: tensor.detach().clone() for name, tensor in memory.items()}

    # What it knows

    @property
    def num_epochs(self) -> int:
        """Number of epochs over all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def body_is_global(self) -> bool:
        """Whether the bodies are still theta_G's: only heads have been trained so far."""
        done = self.phases[: self._phase_number(max(len(self.records) - 1, 0)) + 1]
        rewritten = any(self.method.overrides(hook) for hook in ("begin", "project", "candidate", "finish"))
        return all(phase.trains == "head" for phase in done) and not rewritten

    @property
    def train_passes(self) -> list[float]:
        """Each client's cost in forward and backward passes of single samples, per training sample.

        A full pass is 1, a forward pass alone 1/3, and a head trained on stored features 0; features of augmented
        images are not stored, so that a head takes a forward pass in every epoch. Scoring heads, candidates or epochs
        on validation data counts too: a method that needs it pays for it.
        """
        method, clients = self.method, [self.global_features.data.clients[client] for client in self._clients]
        full: float = sum(phase.epochs for phase in self.phases if phase.trains == "all")
        full += min(method.num_prepare_batches, self.samples.num_steps) / self.samples.num_steps
        probed = sum(phase.epochs for phase in self.phases if phase.trains == "head")
        if self._augments:
            forward = int(method.starts_head) + probed
        else:
            forward = int(method.starts_head or probed > 0)
        if method.refresh_norm and has_batch_norm(self.stack.module):
            forward += method.num_candidates + 1
        scored = method.num_candidates + method.keep_best * (self.num_epochs + 1) + method.starts_head
        return [full + (forward + scored * len(client.val) / len(client.train)) / 3 for client in clients]

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the method's memory, the best networks so far, and the record of each epoch."""
        records = [vars(record) for record in self.records]
        checkpoint["lpft"] = {"memory": self.memory, "best": self.best, "records": records}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` has added."""
        self.memory, self.best = checkpoint["lpft"]["memory"], checkpoint["lpft"]["best"]
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
        return self.optimizers().optimizer  # type: ignore[union-attr]

    @cached_property
    def _index(self) -> Tensor:
        return self.samples.index.to(self.device)

    @cached_property
    def _labels(self) -> Tensor:
        return self.global_features.samples.labels(self._index)

    @cached_property
    def _shares(self) -> Tensor:
        return self.samples.shares().to(self.device)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.global_features)

    @cached_property
    def _train_features(self) -> Tensor:
        return self.global_features.stacked(self._clients)

    @property
    def _augments(self) -> bool:
        return self.global_features.data.augment is not None

    def _images(self, positions: Tensor, draws: Tensor | None = None) -> Tensor:
        return self.global_features.images(self._index.gather(1, positions), draws)

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

    def _start_heads(self) -> None:
        """Let the method replace the head of every client, on the host."""
        if not self.method.starts_head:
            return
        features, net = self.global_features, self.global_features.net
        heads = []
        for client, name in zip(self._clients, self.samples.names, strict=True):
            own = features.data.clients[client]
            labels = features.data.labels
            data = HeadData(features.train(client), labels[own.train], features.of(own.val), labels[own.val])
            head = {name: t.detach() for name, t in net.head.named_parameters()}
            heads.append(self.method.start_head(head, data, generator(self.seed, "head", name)))
        self.stack.write({f"head.{name}": torch.stack([head[name] for head in heads]) for name in heads[0]})

    def _hook(self, hook: Callable[..., Any], *extra: Any) -> Any:
        """Call a hook of the method for every client: parameters, theta_G's, memory, and more tensors ``(K, ...)``."""
        global_params = {name: p.detach() for name, p in self.global_features.net.named_parameters()}
        return self.stack.map(
            lambda params, memory, *extra: hook(params, global_params, memory, *extra),
            self.stack.params(),
            self.memory,
            *extra,
        )


@dataclass
class EpochBatches:
    """The batches of the module's current epoch.

    Each is positions ``(K, batch)``, uniform numbers for the method's `mix`, and those for augmentation
    ``(K, batch, num_draws)``.

    Args:
        module: whose current epoch it is.
    """

    module: Personalizer = field(repr=False)

    def __len__(self) -> int:
        return self.module.samples.num_steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        module, epoch = self.module, self.module.current_epoch
        positions = module.samples.epoch(module.seed, "personalize", epoch)
        count = module.method.uniforms_per_step
        uniforms = torch.stack(
            [
                torch.rand(len(self), count, generator=generator(module.seed, "mix", epoch, name))
                for name in module.samples.names
            ]
        )
        num_draws = module.global_features.data.num_draws
        draws = module.samples.draws(num_draws, module.seed, "augment", "personalize", epoch)
        yield from zip(positions, uniforms.transpose(0, 1), draws, strict=True)
