"""The models between the global model and a personalized one: weight-space interpolation, as in WiSE-FT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpft.clients.stack import ClientStack
from lpft.evaluation.matrix import Evaluator, StackEvaluation
from lpft.models.base import BodyHeadNet
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


def interpolated(start: State, end: State, a: float) -> State:
    """Return the model at `a` on the line between two.

    All entries are interpolated, BatchNorm's statistics too: between two positive variances all are positive. Integers,
    such as BatchNorm's counters, are those of `end`.

    Args:
        start: the global model.
        end: the personalized model, or K of them with a leading client dimension.
        a: in ``[0, 1]``; at 0 and 1 the result equals the ends bit for bit.

    References:
        Wortsman et al., arXiv:2109.01903, equation 1.
    """
    return {
        name: torch.lerp(start[name].expand_as(tensor), tensor, a) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


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
        between.write(interpolated(begin, ends, a))
        points.append(LinePoint(a, evaluator.test(between), evaluator.val(between, clients)))
    return points


def _tensors(net: nn.Module) -> State:
    return {name: tensor.detach() for name, tensor in (*net.named_parameters(), *net.named_buffers())}
