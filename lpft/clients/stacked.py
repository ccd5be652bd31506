"""The parameters and buffers of K clients' networks, with a leading client dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lpft.models.base import BodyHeadNet, aliases, copy_network, tied_slots
from lpft.types import State


class StackedTensors(nn.Module):
    """Parameters, buffers and gradients of the networks of K clients, each ``(K, ...)``.

    With K > 1 the parameters are stacked; with K = 1 they are those of a real network with convolution weights in
    channels-last format: PyTorch's kernels for the CPU then take up to 40% less time, those for GPUs use tensor cores.
    (Under `vmap` this makes no difference.) `ClientStack` runs the networks.

    Args:
        net: the network every client starts from; it is copied.
        num_clients: K.
    """

    def __init__(self, net: BodyHeadNet, num_clients: int) -> None:
        super().__init__()
        self.num_clients = num_clients
        self._param_names = [name for name, _ in net.named_parameters()]
        self._buffer_names = [name for name, _ in net.named_buffers()]
        self._state_names = list(net.state_dict())
        self._aliases = aliases(net)
        self._ties = tied_slots(net.body)
        self._frozen_by_net = {name for name, p in net.named_parameters() if not p.requires_grad}
        if num_clients == 1:
            self.net = copy_network(net).to(memory_format=torch.channels_last)
            return
        # Only the skeleton's forward pass is used; in a tuple, so that it is not a submodule. It has no values.
        self._skeleton = (copy_network(net, "meta"),)
        self.stacked = nn.ParameterDict(
            {_key(name): nn.Parameter(_stacked(p, num_clients), p.requires_grad) for name, p in net.named_parameters()}
        )
        for name, buffer in net.named_buffers():
            self.register_buffer(_key(name), _repeat(buffer, num_clients))

    def params(self) -> State:
        """Return the parameters by their name in the network, each ``(K, ...)``; gradients flow through them."""
        if self.num_clients == 1:
            return {name: p.unsqueeze(0) for name, p in self.net.named_parameters()}
        return {name: self.stacked[_key(name)] for name in self._param_names}

    def net_buffers(self) -> State:
        """Return the buffers (statistics of norm layers, say) by their name in the network, each ``(K, ...)``."""
        if self.num_clients == 1:
            return {name: b.unsqueeze(0) for name, b in self.net.named_buffers()}
        return {name: getattr(self, _key(name)) for name in self._buffer_names}

    def part(self, prefix: str) -> list[nn.Parameter]:
        """Return the trainable parameters of one part, ``"body"`` or ``"head"``."""
        source = self.net.named_parameters() if self.num_clients == 1 else self.params().items()
        return [p for name, p in source if name.startswith(f"{prefix}.")]  # type: ignore[misc]

    def stacked_state(self) -> State:
        """Return the state of all clients, each tensor ``(K, ...)`` and not copied, with persistent buffers only."""
        tensors = {**self.params(), **self.net_buffers()}
        return {name: tensors[self._aliases.get(name, name)].detach() for name in self._state_names}

    def states(self) -> list[State]:
        """Return a copy of every client's state, a plain state dict of the network, with persistent buffers only."""
        return [{name: t[k].clone() for name, t in self.stacked_state().items()} for k in range(self.num_clients)]

    def load(self, state: State) -> None:
        """Let every client start from the same state, a plain state dict of the network."""
        self.write(state)  # one state is broadcast to all clients

    @torch.no_grad()
    def write(self, tensors: State) -> None:
        """Overwrite parameters and buffers, given by name, each ``(K, ...)``; without K, the same for all clients.

        Raises:
            ValueError: if a tensor has another shape, even if it could be broadcast.
        """
        targets = {**self.params(), **self.net_buffers()}
        for name, tensor in tensors.items():
            copy_values(name, targets[self._aliases.get(name, name)], tensor)

    @property
    def module(self) -> BodyHeadNet:
        """The network whose forward pass runs; with K > 1 it has no values."""
        return self.net if self.num_clients == 1 else self._skeleton[0]

    def gradients(self) -> State:
        """Return all existing gradients by the parameters' name in the network, each ``(K, ...)``, not copied."""
        if self.num_clients == 1:
            return {name: p.grad.unsqueeze(0) for name, p in self.net.named_parameters() if p.grad is not None}
        return {name: p.grad for name in self._param_names if (p := self.stacked[_key(name)]).grad is not None}

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> None:
        """Scale every client's gradient down to an l2 norm of at most `max_norm`, by its own norm."""
        gradients = list(self.gradients().values())
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Return which clients have only finite parameters and buffers, bool, ``(K,)``."""
        tensors = [t.reshape(self.num_clients, -1) for t in (*self.params().values(), *self.net_buffers().values())]
        return torch.stack([t.isfinite().all(dim=1) for t in tensors]).all(dim=0)


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict allows no dots


def _stacked(parameter: Tensor, num_clients: int) -> Tensor:
    """Repeat a parameter for every client.

    Matrices are transposed in memory, like their gradients from batched products: steps then take 20 to 60% less time.
    """
    stacked = _repeat(parameter, num_clients)
    return stacked.transpose(1, 2).contiguous().transpose(1, 2) if parameter.dim() == 2 else stacked


def _repeat(tensor: Tensor, num_clients: int) -> Tensor:
    return tensor.detach().expand(num_clients, *tensor.shape).clone(memory_format=torch.contiguous_format)


def copy_values(name: str, target: Tensor, tensor: Tensor) -> None:
    """Copy a tensor of all clients ``(K, ...)``, or one that is the same for all, to another one.

    Raises:
        ValueError: if it has another shape, even if it could be broadcast.
    """
    if tensor.shape not in (target.shape, target.shape[1:]):
        needed, given = tuple(target.shape[1:]), tuple(tensor.shape[1:])
        raise ValueError(f"`{name}` of a client has the shape {needed}, but its new value has {given}.")
    target.copy_(tensor)
