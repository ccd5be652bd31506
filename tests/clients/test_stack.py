from __future__ import annotations

import pytest
import torch
from torch import nn

from lpft.clients.stack import ClientStack, check_elementwise, sample_losses
from tests.toy import largest_difference, same_bits, toy_net

K = 3


def random_batch(steps: int = 4, batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(steps, K, batch, 1, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (steps, K, batch), generator=generator)


def train(stack: ClientStack, x: torch.Tensor, y: torch.Tensor, make_optimizer) -> None:
    optimizer = make_optimizer(stack.parameters())
    for images, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        sample_losses(stack(images), labels).mean(1).sum().backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stacked_training_equals_plain_training_of_each_network(norm: bool, optimizer: str) -> None:
    x, y = random_batch()
    stack = ClientStack(toy_net(norm), K).train()
    train(stack, x, y, OPTIMIZERS[optimizer])
    for k, state in enumerate(stack.states()):
        net = toy_net(norm).train()
        plain = OPTIMIZERS[optimizer](net.parameters())
        for images, labels in zip(x[:, k], y[:, k], strict=True):
            plain.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            plain.step()
        # A bias before BatchNorm has gradient 0 up to rounding, which Adam divides by its own size plus 1e-8.
        assert largest_difference(state, dict(net.state_dict())) < (1e-12 if optimizer == "sgd" else 1e-8)


def test_one_client_runs_the_network_itself() -> None:
    x, _ = random_batch()
    net = toy_net(norm=True).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stack = ClientStack(net, 1).train()
    assert torch.equal(stack(x[0, :1])[0], net(x[0, 0]))
    assert same_bits(stack.states()[0], dict(net.state_dict()))


@pytest.mark.parametrize("num_clients", [1, K])
def test_a_shared_batch_equals_the_same_batch_for_every_client(num_clients: int) -> None:
    x, _ = random_batch()
    stack = ClientStack(toy_net(), num_clients).eval()
    same = x[0, :1].expand(num_clients, *x.shape[2:])
    torch.testing.assert_close(stack.features(x[0, 0], shared=True), stack.features(same))
    features = stack.features(same)
    torch.testing.assert_close(stack.classify(features[0], shared=True), stack.classify(features))


@pytest.mark.parametrize("num_clients", [1, K])
def test_given_parameters_replace_the_stacks_own(num_clients: int) -> None:
    x, _ = random_batch()
    stack, other = ClientStack(toy_net(seed=0), num_clients).eval(), ClientStack(toy_net(seed=1), num_clients).eval()
    images = x[0, :num_clients]
    torch.testing.assert_close(stack(images, other.params()), other(images))
    assert not torch.allclose(stack(images), other(images))


def test_nan_in_one_client_leaves_the_others_bit_for_bit() -> None:
    x, y = random_batch()
    clean, struck = ClientStack(toy_net(norm=True), K).train(), ClientStack(toy_net(norm=True), K).train()
    with torch.no_grad():
        struck.params()["head.weight"][1] = float("nan")
    for stack in (clean, struck):
        train(stack, x, y, OPTIMIZERS["sgd"])
    assert struck.finite().tolist() == [True, False, True]
    for k in (0, 2):
        assert same_bits(struck.states()[k], clean.states()[k])


def test_statistics_of_norm_layers_can_diverge_too() -> None:
    stack = ClientStack(toy_net(norm=True), K)
    stack.net_buffers()["body.1.running_var"][2, 0] = float("inf")
    assert stack.finite().tolist() == [True, True, False]


def test_gradients_are_clipped_by_each_clients_own_norm() -> None:
    x, y = random_batch()
    stack = ClientStack(toy_net(), K)
    sample_losses(stack(x[0] * torch.tensor([1.0, 10.0, 100.0]).view(K, 1, 1, 1, 1)), y[0]).mean(1).sum().backward()
    before = [torch.cat([p.grad[k].flatten() for p in stack.parameters()]) for k in range(K)]
    limit = float(before[1].norm())
    stack.clip_gradients(limit)
    after = [torch.cat([p.grad[k].flatten() for p in stack.parameters()]) for k in range(K)]
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b * min(1.0, limit / float(b.norm())), rtol=1e-5, atol=0)


def test_a_frozen_body_gets_no_gradient_and_keeps_its_statistics() -> None:
    x, y = random_batch()
    stack = ClientStack(toy_net(norm=True), K).train()
    before = stack.states()[0]
    stack.freeze_body(True)
    train(stack, x, y, OPTIMIZERS["sgd"])
    after = stack.states()[0]
    body = [name for name in before if name.startswith("body.")]
    assert same_bits({n: before[n] for n in body}, {n: after[n] for n in body})
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("num_clients", [1, K])
def test_map_applies_a_function_of_one_client(num_clients: int) -> None:
    stack = ClientStack(toy_net(), num_clients)
    norms = stack.map(lambda params, scale: {"n": params["head.bias"].sum() * scale}, stack.params(), shared=(2.0,))
    torch.testing.assert_close(norms["n"], stack.params()["head.bias"].sum(1) * 2)


def test_dropout_differs_between_the_clients_of_a_stack() -> None:
    stack = ClientStack(toy_net(dropout=0.5), K).train()
    features = stack.features(torch.rand(1, 5, 1, 8, 8, dtype=torch.float64).expand(K, -1, -1, -1, -1))
    assert not torch.equal(features[0], features[1])


def test_optimizers_that_could_mix_clients_are_refused() -> None:
    stack = ClientStack(toy_net(), K)
    with pytest.raises(ValueError, match=r"LBFGS.*clients_per_stack: 1"):
        check_elementwise(torch.optim.LBFGS(stack.parameters()), K)
    check_elementwise(torch.optim.LBFGS(stack.parameters()), 1)
