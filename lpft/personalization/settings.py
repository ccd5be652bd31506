"""The section `personalization` of an experiment."""

from __future__ import annotations

from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import SGD

from lpft.types import OptimizerCallable


class Personalization:
    """Fine-tuning of every client, by every method.

    The number of epochs is the paper's; optimizer, learning rate and batch size are ours.

    Args:
        epochs: budget of every method, in passes over a client's training data.
        batch_size: samples in a client's batch.
        optimizer: the optimizer; its learning rate is that of full fine-tuning.
        eval_every: number of epochs between tests, for learning curves; 0 tests only at the end.
        clip_norm: maximum l2 norm of a client's gradient; null does not clip.
        clients_per_stack: number of clients trained as one; `auto` depends on network, data and device type.
        heads_per_stack: the same for methods that train only heads, or nothing; `auto` is `clients_per_stack`, or more
            if that is `auto` too.
        save_models: whether to save every personalized model.
    """

    def __init__(
        self,
        epochs: PositiveInt = 15,
        batch_size: PositiveInt = 32,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=1e-3, momentum=0.9),
        eval_every: NonNegativeInt = 0,
        clip_norm: PositiveFloat | None = None,
        clients_per_stack: PositiveInt | Literal["auto"] = "auto",
        heads_per_stack: PositiveInt | Literal["auto"] = "auto",
        save_models: bool = True,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.eval_every = eval_every
        self.clip_norm = clip_norm
        self.clients_per_stack = clients_per_stack
        self.heads_per_stack = heads_per_stack
        self.save_models = save_models
