"""The interface of networks: a body and a linear head."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.lazy import LazyModuleMixin

from lpft.models.unregistered import check_unregistered, unregistered_tensors
from lpft.runtime.seeding import global_generator
from lpft.types import DataSpec, State

Net = TypeVar("Net", bound=nn.Module)


class BodyHeadNet(nn.Module):
    """A feature extractor with a linear classifier on top.

    A subclass sets ``body``, which maps inputs ``(batch, *shape)`` to features ``(batch, k)``, and ``head``, which maps
    features to logits ``(batch, num_classes)``. Nothing else may own parameters or buffers. ``DataSpec.shape`` is the
    inputs' shape: ``(channels, size, size)`` for images, ``(num_features,)`` for feature arrays.
    """

    body: nn.Module
    head: nn.Linear

    weights_hash: str | None = None
    """Hash of the pretrained weights in the setting ``weights``; None without such weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, ``(batch, num_classes)``, of inputs ``(batch, *shape)``."""
        logits: Tensor = self.head(self.body(x))
        return logits


def check_network(net: nn.Module) -> None:
    """Raise ValueError if a network has modules other than a body and a linear head."""
    name = type(net).__name__
    if not isinstance(net, BodyHeadNet) or type(net).forward is not BodyHeadNet.forward:
        raise ValueError(
            f"{name} is not derived from lpft.models.base.BodyHeadNet, or overrides `forward`."
            " HINT: derive it from that class, and set `self.body` and `self.head` only."
        )
    if not isinstance(getattr(net, "body", None), nn.Module) or not isinstance(getattr(net, "head", None), nn.Linear):
        raise ValueError(
            f"{name} lacks a `body` that is a torch.nn.Module or a `head` that is a torch.nn.Linear."
            " HINT: set both in its `__init__`; layers before the last linear one belong to the body."
        )
    lazy = [part for part, module in net.named_modules() if isinstance(module, LazyModuleMixin)]
    if lazy:
        raise ValueError(
            f"{name} has layers whose size is not known before they run: {', '.join(lazy[:5])}."
            " HINT: use layers with given sizes, such as nn.Linear instead of nn.LazyLinear."
        )
    _check_head(net)
    tensors: State = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    others = [part for part in tensors if not part.startswith(("body.", "head."))]
    if others:
        raise ValueError(
            f"{name} has parameters or buffers outside of body and head: {', '.join(others[:5])}."
            " HINT: move them into `body`."
        )
    saved = net.state_dict().keys()
    lost = [part for part, _ in net.named_buffers() if part not in saved]
    if lost:
        raise ValueError(
            f"{name} has buffers that are not saved with it: {', '.join(lost[:5])}."
            " HINT: register them with `persistent=True`."
        )
    complex_tensors = [part for part, tensor in tensors.items() if tensor.is_complex()]
    if complex_tensors:
        raise ValueError(
            f"{name} has complex parameters or buffers, which cannot be averaged: {', '.join(complex_tensors[:5])}."
            " HINT: store real and imaginary parts, and join them with `torch.view_as_complex` in `forward`."
        )
    undefined = [part for part, tensor in tensors.items() if not tensor.isfinite().all()]
    if undefined:
        raise ValueError(
            f"{name} has values that are not finite, which count as diverged: {', '.join(undefined[:5])}."
            " HINT: initialize parameters; store masks as booleans, and use `masked_fill` in `forward`."
        )
    _check_memory(name, tensors)
    synchronized = [part for part, module in net.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if synchronized:
        raise ValueError(
            f"{name} has SyncBatchNorm, which would mix clients of different processes: {', '.join(synchronized[:5])}."
            " HINT: use BatchNorm; lpft never divides a client's batch."
        )


def _check_memory(name: str, tensors: State) -> None:
    """Raise ValueError if entries of a tensor, or different tensors, share memory: copies would not."""
    expanded = [
        part
        for part, tensor in tensors.items()
        if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
    ]
    if expanded:
        raise ValueError(
            f"{name} has tensors whose entries share memory: {', '.join(expanded[:5])}."
            " HINT: use `.clone()` after `expand`."
        )
    first: dict[int, str] = {}
    for part, tensor in tensors.items():
        if tensor.numel() and first.setdefault(tensor.data_ptr(), part) != part:
            raise ValueError(
                f"{name}'s {part} shares the memory of {first[tensor.data_ptr()]}, but is another tensor, so they would"
                " be trained separately. HINT: tie them by assigning the parameter itself, not its `data`; or `clone`."
            )


def _check_head(net: BodyHeadNet) -> None:
    """Raise ValueError if a head is not a plain linear layer, or shares tensors with the body."""
    name, head = type(net).__name__, net.head
    hooked = head._forward_hooks or head._forward_pre_hooks
    if type(head).forward is not nn.Linear.forward or hooked or "weight" not in head._parameters:
        raise ValueError(
            f"{name}'s head, {type(head).__name__}, is not a plain torch.nn.Linear: it has its own `forward`, a"
            " hook or a parametrization. HINT: use nn.Linear, and move the rest into `body`."
        )
    tied = [part for part, first in aliases(net).items() if part.startswith("head.") and first.startswith("body.")]
    if tied:
        raise ValueError(
            f"{name} ties {' and '.join(tied)} to {aliases(net)[tied[0]]}, but head and body are trained"
            " separately. HINT: give the head its own parameters."
        )


def check_trains(net: BodyHeadNet, part: Literal["all", "head", "body"]) -> None:
    """Raise ValueError if a network has no trainable parameters, or none in its head or body."""
    prefix, noun = ("", "parameters") if part == "all" else (f"{part}.", f"parameters in its {part}")
    if not any(p.requires_grad for name, p in net.named_parameters() if name.startswith(prefix)):
        raise ValueError(
            f"{type(net).__name__} has no trainable {noun}, so there is nothing to train."
            " HINT: set `requires_grad` of the parameters, or choose what trains another part."
        )


def aliases(net: nn.Module) -> dict[str, str]:
    """Return the additional names of tied parameters and buffers, each with the first name of its tensor.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> aliases(tied)
    {'1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    return {name: first[id(t)] for name, t in named if first.setdefault(id(t), name) != name}


def tied_slots(net: nn.Module) -> dict[str, str]:
    """Return the aliases that are attributes of other modules than the first name; those of a shared module are not."""

    def slot(name: str) -> tuple[int, str]:
        parent, _, child = name.rpartition(".")
        return id(net.get_submodule(parent)), child

    by_slot = {slot(alias): (alias, name) for alias, name in aliases(net).items() if slot(alias) != slot(name)}
    return dict(by_slot.values())


def run_with(net: nn.Module, tensors: State, x: Tensor, ties: Mapping[str, str]) -> Tensor:
    """Run a network with other parameters and buffers.

    This is `torch.func.functional_call` that also works for networks with shared modules, in which the latter leaves
    tensors behind.

    Args:
        net: the network.
        tensors: tensors that replace those of the network, by name.
        x: the input.
        ties: `tied_slots` of the network.
    """
    others = {alias: tensors[name] for alias, name in ties.items() if name in tensors}
    out: Tensor = functional_call(net, {**tensors, **others}, (x,), tie_weights=False)
    return out


def copy_network(net: Net, device: str | None = None) -> Net:
    """Copy a network, including networks with cached computed tensors such as those of `torch.nn.utils.weight_norm`.

    These tensors are not copied; every forward pass computes them again.

    Args:
        net: the network.
        device: device of the copy; tied tensors stay tied, also on the meta device.
    """
    attributes = (value for module in net.modules() for value in vars(module).values())
    computed = {id(t): t.detach() for t in attributes if isinstance(t, Tensor) and not t.is_leaf}
    try:
        copied = copy.deepcopy(net, computed)
    except RuntimeError as error:  # of tensors with a history
        raise ValueError(
            f"{type(net).__name__} cannot be copied: {str(error).partition('. ')[0]}."
            " HINT: keep no outputs of layers, such as those that hooks collect, in lists or dicts."
        ) from error
    if device is None:
        return copied
    tied = aliases(copied)
    copied = copied.to(device)
    for alias, name in tied.items():
        parent, _, child = alias.rpartition(".")
        setattr(copied.get_submodule(parent), child, _tensor(copied, name))
    return copied


def _tensor(net: nn.Module, name: str) -> Tensor:
    parent, _, child = name.rpartition(".")
    tensor: Tensor = getattr(net.get_submodule(parent), child)
    return tensor


def check_image_size(net: nn.Module, spec: DataSpec, smallest: int) -> None:
    """Raise ValueError if the images are too small for a network's poolings, or the data are not images."""
    if spec.num_features is not None:
        raise ValueError(
            f"{type(net).__name__} is a network for images, but the data are rows of {spec.num_features} features."
            " HINT: use lpft.models.mlp.MLP or lpft.models.residual.ResidualMLP."
        )
    if spec.image_size < smallest:
        raise ValueError(
            f"{type(net).__name__} needs images of at least {smallest}x{smallest} pixels, but the data's are"
            f" {spec.image_size}x{spec.image_size}. HINT: raise the data's `image_size`, or use lpft.models.mlp.MLP."
        )


def dry_run(
    net: BodyHeadNet,
    spec: DataSpec,
    batch_size: int = 2,
    training: bool = False,
    watch: Callable[[BodyHeadNet], object] = lambda copied: None,
) -> tuple[Tensor, object]:
    """Run a copy of a body on a batch of zeros, on the meta device if possible, where nothing is computed.

    Networks that depend on values or draw random numbers run on the CPU instead.

    Args:
        net: the network.
        spec: shape of the inputs.
        batch_size: number of inputs.
        training: whether to run in training mode.
        watch: function called with the copy before it runs, for example to add hooks.

    Returns:
        The inputs, and the output of the body.

    Raises:
        ValueError: if it cannot run.
    """
    shape = (batch_size, *spec.shape)
    for device in ("meta", "cpu"):
        probe = copy_network(net, device).train(training)
        watch(probe)
        images = torch.zeros(shape, device=device, dtype=net.head.weight.dtype)
        try:
            with torch.random.fork_rng(devices=[]):
                return images, probe.body(images)
        except Exception as error:  # networks can be anything
            cause = error
    inputs, hint = f"images of {'x'.join(map(str, spec.shape))}", "it or the data's `image_size` and `channels`"
    if spec.num_features is not None:
        inputs, hint = f"rows of {spec.num_features} features", "it: inputs have the shape `spec.shape`"
    raise ValueError(
        f"{type(net).__name__} cannot run on {inputs}:"
        f" {type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}."
        f" HINT: run its `body` on such a batch, and correct {hint}."
    ) from cause


def check_forward(net: BodyHeadNet, spec: DataSpec) -> None:
    """Raise ValueError if a network does not map inputs to features and these to classes, or modifies the inputs."""
    name, width, dtype = type(net).__name__, net.head.in_features, net.head.weight.dtype
    if net.head.out_features != spec.num_classes:
        raise ValueError(
            f"{name}'s head has {net.head.out_features} outputs, but the data have {spec.num_classes} classes."
            " HINT: build it with `nn.Linear(features, spec.num_classes)`."
        )
    for batch_size, training in ((2, False), (2, True), (1, False)):
        probes: list[BodyHeadNet] = []
        try:
            images, features = dry_run(net, spec, batch_size, training, watch=probes.append)
        except ValueError:
            if batch_size == 1:  # norm layers may need several inputs
                return
            raise
        created = probes[-1].state_dict().keys() - net.state_dict().keys()
        if created:
            raise ValueError(
                f"{name} creates layers when it runs: {', '.join(sorted(created)[:5])}."
                " HINT: create them in `__init__`, so that they are trained and saved."
            )
        if not isinstance(features, Tensor):
            raise ValueError(
                f"{name}'s body returns a {type(features).__name__}, not only features."
                " HINT: return one tensor of shape (batch, features), also in training."
            )
        if features.shape != (batch_size, width):
            inputs = spec.noun if batch_size > 1 else spec.noun.removesuffix("s")
            raise ValueError(
                f"{name}'s body returns {tuple(features.shape)} for {batch_size} {inputs}, but its head takes"
                f" ({batch_size}, {width}). HINT: change the head's `in_features`, or flatten in the body:"
                " `x.flatten(1)` keeps the batch, also of a single input, unlike `x.squeeze()`."
            )
        if features.dtype != dtype:
            raise ValueError(
                f"{name}'s body returns {features.dtype}, but its head takes {dtype}."
                " HINT: convert the features with `.to(x.dtype)`, or take the real part of complex ones."
            )
        if images._version:
            raise ValueError(
                f"{name}'s body modifies its inputs, the {spec.noun}, which are used again."
                " HINT: avoid in-place operations on inputs: `x = x - mean`, `nn.ReLU(inplace=False)`."
            )


NetFactory = Callable[[DataSpec], BodyHeadNet]
"""A function that builds a network for data; YAML chooses class and settings."""


def build_network(network: NetFactory, spec: DataSpec, dtype: torch.dtype, seed: int) -> BodyHeadNet:
    """Build the initial network of the federated training of a seed; its values depend only on the seed.

    Raises:
        ValueError: if it has modules other than a body and a linear head, or cannot be trained, copied or saved.
    """
    with global_generator(seed, "network"):
        net = network(spec)
    check_network(net)
    loose = unregistered_tensors(net)
    if loose:
        with global_generator(seed, "network", "again"):
            again = unregistered_tensors(network(spec))
        check_unregistered(type(net).__name__, loose, again)
    net = net.to(dtype)
    check_forward(net, spec)
    return net
