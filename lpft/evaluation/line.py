"""Evaluation of models between the global and a personalized model: weight-space interpolation, as in WiSE-FT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpft.clients.stack import ClientStack
from lpft.evaluation.matrix import Evaluator, StackEvaluation
from lpft.models.base import BodyHeadNet
from lpft.models.interpolation import interpolate
from lpft.types import State


@dataclass(frozen=True)
class LinePoint:
    """The evaluation of K interpolated models.

    Args:
        a: interpolation coefficient: 0 is the global model, 1 the personalized one.
        test: evaluation on the test sets of all clients.
        val: accuracy on each client's own validation set, percent, ``(K,)``; NaN for clients without validation data.
    """

    a: float
    test: StackEvaluation
    val: Tensor


@torch.no_grad()
def evaluate_line(
    evaluator: Evaluator, stack: ClientStack, start: BodyHeadNet, clients: Sequence[int], num_points: int
) -> list[LinePoint]:
    """Test models on the line from a start to the K personalized models of a stack, which is not modified.

    If only heads differ from the global model, its stored features are used.

    Args:
        evaluator: tests the models.
        stack: the personalized models.
        start: the network from which they started.
        clients: positions of the K clients.
        num_points: number of evenly spaced models between the ends.
    """
    ends = {name: tensor.detach() for name, tensor in {**stack.params(), **stack.net_buffers()}.items()}
    begin = _tensors(start)
    between = ClientStack(start, stack.num_clients).to(evaluator.global_features.device).eval()
    points = []
    for step in range(1, num_points + 1):
        a = step / (num_points + 1)
        between.write(interpolate(begin, ends, a))
        points.append(LinePoint(a, evaluator.test(between), evaluator.val(between, clients)))
    return points


def _tensors(net: nn.Module) -> State:
    return {name: tensor.detach() for name, tensor in (*net.named_parameters(), *net.named_buffers())}
