"""The models between the global model and a personalized one: weight-space interpolation, as in WiSE-FT."""

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
    """How K interpolated models do.

    Args:
        a: where they are: 0 is the global model, 1 the personalized one.
        test: on the test sets of all clients.
        val: accuracy on each client's own validation set, percent, ``(K,)``; NaN for clients without.
    """

    a: float
    test: StackEvaluation
    val: Tensor


@torch.no_grad()
def evaluate_line(
    evaluator: Evaluator, stack: ClientStack, start: BodyHeadNet, clients: Sequence[int], num_points: int
) -> list[LinePoint]:
    """Test the models between a start and the K personalized models of a stack, which stays as it is.

    Where only heads differ from the global model, its stored features serve.

    Args:
        evaluator: tests models.
        stack: the personalized models.
        start: the network that they started from.
        clients: positions of the K clients.
        num_points: how many models, evenly spaced, without the ends.
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
