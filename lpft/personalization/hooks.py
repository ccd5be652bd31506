"""Calls the hooks of a method for every client of a stack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lpft.clients.stack import ClientStack
from lpft.clients.stacked import copy_values
from lpft.evaluation.matrix import Evaluator
from lpft.methods.base import ComparedBatch, HeadData, Method
from lpft.models.base import BodyHeadNet, copy_network, run_with, tied_slots
from lpft.personalization.batchnorm import has_batch_norm, refresh_batch_norm
from lpft.personalization.data import StackData
from lpft.runtime.seeding import generator
from lpft.types import State


class MethodHooks:
    """Maps the hooks of a method, which are functions of one client, over the clients of a stack.

    Args:
        method: the method.
        stack: the networks to train.
        start: the network from which all clients start: the global model, with the layers that the method adds.
        data: the clients' training data.
        evaluator: scores networks on validation data.
        seed: seed of the run.
    """

    def __init__(
        self, method: Method, stack: ClientStack, start: BodyHeadNet, data: StackData, evaluator: Evaluator, seed: int
    ) -> None:
        self.method = method
        self.stack = stack
        self.start_net = start
        self.data = data
        self.evaluator = evaluator
        self.seed = seed
        self.memory: State = {}
        self.best: State = {}

    def start(self) -> None:
        """Call `prepare`, and set the initial heads."""
        if self.method.overrides("prepare"):
            self._prepare()
        if self.method.starts_head:
            self._start_heads()

    def begin(self, phase: int) -> None:
        """Begin a phase."""
        if self.method.overrides("begin"):
            params, memory = self._map_all(partial(self.method.begin, phase))
            self._remember(memory)
            self.stack.write(params)

    def mix(self, uniforms: Tensor) -> State | None:
        """Return the parameters of a step's forward pass, each ``(K, ...)``; None for those of the stack."""
        return self._map(self.method.mix, uniforms) if self.method.overrides("mix") else None

    def objective(self, losses: Tensor, compared: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return the objectives ``(K,)`` for the clients' cross-entropies ``(K,)``, with flooding and penalties.

        Args:
            losses: the cross-entropies.
            compared: the fields of `ComparedBatch`, each ``(K, ...)``; None if the method does not need them.
        """
        if self.method.flood is not None:
            losses = (losses - self.method.flood).abs() + self.method.flood
        if self.method.overrides("penalty"):
            losses = losses + self._map(self._penalty)
        if compared is not None:
            losses = losses + self.stack.map(self._batch_penalty, self.memory, *compared)
        return losses

    @property
    def compares(self) -> bool:
        """Whether the method needs features and logits of both models."""
        return self.method.overrides("batch_penalty")

    @torch.no_grad()
    def gradient(self) -> None:
        """Let the method change the gradients."""
        if self.method.overrides("gradient"):
            gradients = self.stack.gradients()
            for name, gradient in self._map(self.method.gradient, gradients).items():
                copy_values(name, gradients[name], gradient)

    @torch.no_grad()
    def project(self) -> None:
        """Call `project`."""
        if self.method.overrides("project"):
            projected = self._map(self.method.project)
            params, memory = projected if isinstance(projected, tuple) else (projected, None)
            if memory is not None:
                self._remember(memory)
            self.stack.write(params)

    @torch.no_grad()
    def end(self, phase: int) -> None:
        """End a phase."""
        if self.method.overrides("end"):
            self._remember(self._map_all(partial(self.method.end, phase)))

    @torch.no_grad()
    def keep_best(self) -> None:
        """Keep the current networks of those clients for which they are the best so far."""
        if not self.method.keep_best:
            return
        current = {**self.stack.params(), **self.stack.net_buffers(), "accuracy": self._val_accuracy()}
        if not self.best:
            self.best = {name: tensor.detach().clone() for name, tensor in current.items()}
            return
        # Without validation data, the accuracy is NaN: these clients keep the latest network.
        better = (current["accuracy"] > self.best["accuracy"]) | current["accuracy"].isnan()
        for name, tensor in current.items():
            chosen = better.view(-1, *[1] * (tensor.dim() - 1))
            self.best[name] = torch.where(chosen, tensor.detach(), self.best[name])

    @torch.no_grad()
    def finish(self) -> None:
        """Let the method judge its candidates, then call `finish`."""
        self.stack.write({name: tensor for name, tensor in self.best.items() if name != "accuracy"})
        for number in range(self.method.num_candidates):
            self.stack.write(self._map_all(partial(self.method.candidate, number)))
            self._refresh_norm()
            self._remember(self._map_all(partial(self.method.judge, number), self._val_accuracy()))
        if self.method.uses_buffers:
            self._refresh_norm()
        if self.method.overrides("finish"):
            self.stack.write(self._map_all(self.method.finish))
        if not self.method.uses_buffers:
            self._refresh_norm()

    @torch.no_grad()
    def merged(self) -> tuple[ClientStack, BodyHeadNet]:
        """Return the networks to test and save, and their initial network; merged into plain networks if possible."""
        net = self.data.global_features.net
        if not self.method.overrides("merge"):
            return self.stack, self.start_net
        params = self.stack.map(self.method.merge, self.stack.params())
        if params.keys() != dict(net.named_parameters()).keys():
            return self.stack, self.start_net
        plain = ClientStack(net, self.stack.num_clients).to(self.data.index.device)
        plain.write({**params, **self.stack.net_buffers()})
        return plain, net

    def _prepare(self) -> None:
        samples = self.data.samples
        order = samples.epoch(self.seed, "prepare")[: self.method.num_prepare_batches].transpose(0, 1)
        positions, shape = order.flatten(1).to(self.data.index.device), order.shape[1:]
        net = copy_network(self.start_net).eval()  # modules may keep tensors of the call
        ties = tied_slots(net)

        def loss(params: State, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(run_with(net, params, images, ties), labels)

        self.memory = self.stack.map(
            lambda params, images, labels: self.method.prepare(loss, params, images, labels),
            {name: p.detach() for name, p in self.stack.params().items()},
            self.data.images(positions).unflatten(1, shape),
            self.data.labels(positions).unflatten(1, shape),
        )

    def _start_heads(self) -> None:
        """Replace the heads, on the CPU, one client after the other."""
        features, head = self.data.global_features, self.data.global_features.net.head
        labels, clients = features.data.labels, features.data.clients
        count = partial(torch.bincount, minlength=head.out_features)
        federation_counts = count(labels[torch.cat([client.train for client in clients])])
        no_features = features.of(labels[:0])
        heads = []
        for position in self.data.clients:
            client = clients[position]
            train, val = (
                (no_features, no_features)
                if self.method.counts_only
                else (features.train(position), features.of(client.val))
            )
            of_client = labels[client.train]
            data = HeadData(train, of_client, val, labels[client.val], count(of_client), federation_counts)
            like = {name: t.detach() for name, t in head.named_parameters()}
            heads.append(self.method.start_head(like, data, generator(self.seed, "head", client.name)))
        self.stack.write({f"head.{name}": torch.stack([tensors[name] for tensors in heads]) for name in heads[0]})

    def _penalty(self, params: State, global_params: State, memory: State) -> Tensor:
        return _scalar("penalty", self.method.penalty(params, global_params, memory))

    def _batch_penalty(self, memory: State, *compared: Tensor) -> Tensor:
        return _scalar("batch_penalty", self.method.batch_penalty(ComparedBatch(*compared), memory))

    def _refresh_norm(self) -> None:
        if self.method.refresh_norm and has_batch_norm(self.stack.module):
            batches = self.data.samples.epoch(self.seed, "refresh").to(self.data.index.device)
            refresh_batch_norm(self.stack, (self.data.images(positions) for positions in batches))

    def _val_accuracy(self) -> Tensor:
        """Return the accuracies on validation data, ``(K,)``; minus infinity for networks that have diverged."""
        accuracy = self.evaluator.val(self.stack, self.data.clients).to(self.data.index.device, torch.float32)
        return torch.where(self.stack.finite(), accuracy, -torch.inf)

    def _remember(self, memory: State) -> None:
        """Store copies of the tensors returned by a hook, which may be parameters that are trained further."""
        self.memory = {name: tensor.detach().clone() for name, tensor in memory.items()}

    def _map(self, hook: Callable[..., Any], *extra: Any) -> Any:
        """Call a hook for every client with parameters, initial parameters, memory and other tensors ``(K, ...)``."""
        global_params = {name: p.detach() for name, p in self.start_net.named_parameters()}
        return self._map_over(hook, self.stack.params(), global_params, *extra)

    def _map_all(self, hook: Callable[..., Any], *extra: Any) -> Any:
        """Call a hook like `_map`, with buffers among the parameters if the method uses them."""
        if not self.method.uses_buffers:
            return self._map(hook, *extra)
        net = self.start_net
        global_state = {name: t.detach() for name, t in (*net.named_parameters(), *net.named_buffers())}
        return self._map_over(hook, {**self.stack.params(), **self.stack.net_buffers()}, global_state, *extra)

    def _map_over(self, hook: Callable[..., Any], params: State, global_params: State, *extra: Any) -> Any:
        def of_client(params: State, memory: State, *extra: Any) -> Any:
            return _tensors(hook, hook(params, global_params, memory, *extra))

        return self.stack.map(of_client, params, self.memory, *extra)


def _tensors(hook: Callable[..., Any], result: Any) -> Any:
    """Return what a hook returned.

    Raises:
        TypeError: if it does not consist of tensors.
    """
    for value in tree_leaves(result):
        if not isinstance(value, Tensor):
            name = getattr(hook, "func", hook).__name__
            raise TypeError(f"`{name}` of the method returned a value of type {type(value).__name__}, not a tensor.")
    return result


def _scalar(hook: str, result: Tensor) -> Tensor:
    """Return the penalty of one client.

    Raises:
        ValueError: if it is not a single number; more would be added to the losses of other clients.
    """
    if not isinstance(result, Tensor) or result.shape != ():
        given = f"of shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"of type {type(result).__name__}"
        raise ValueError(f"`{hook}` of the method returned a value {given}, but must return a tensor of shape ().")
    return result
