from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpft.clients.stack import ClientStack, sample_losses
from lpft.clients.stack_size import can_be_joined, clients_per_stack, forward_flops, size_to_join
from lpft.models.cnn import SmallCNN
from lpft.models.mlp import MLP
from lpft.types import DataSpec

SPEC = DataSpec(1, 28, 10)


def net() -> MLP:
    return MLP(SPEC, widths=[64])


def test_flops_of_an_mlp_are_two_per_weight_and_sample() -> None:
    assert forward_flops(net(), SPEC, batch_size=3) == 2 * 3 * (784 * 64 + 64 * 10)


def test_auto_leaves_at_least_four_stacks() -> None:
    assert clients_per_stack("auto", net(), SPEC, 1, num_clients=19, device_type="cpu") == 4


def test_auto_makes_no_stacks_of_two_or_three_clients() -> None:
    assert clients_per_stack("auto", net(), SPEC, 1, num_clients=15, device_type="cpu") == 1
    assert clients_per_stack("auto", net(), SPEC, 1, num_clients=3, device_type="cpu") == 1


def test_auto_trains_convolutional_networks_one_by_one_unless_they_are_tiny() -> None:
    tiny, small = SmallCNN(DataSpec(1, 8, 10), width=8), SmallCNN(DataSpec(3, 16, 10))
    assert clients_per_stack("auto", tiny, DataSpec(1, 8, 10), 8, 100, "cpu") > 1
    assert clients_per_stack("auto", small, DataSpec(3, 16, 10), 32, 100, "cpu") == 1


def test_auto_makes_smaller_stacks_of_more_work() -> None:
    sizes = [clients_per_stack("auto", net(), SPEC, batch, 1000, "cpu") for batch in (1, 32, 256, 4096)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1 == sizes[-1]


def test_a_number_is_not_changed() -> None:
    assert clients_per_stack(7, net(), SPEC, 32, 10, "cpu") == 7


# Stacks trained as one


def trained(start: MLP, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Take two steps with images ``(K, n, ...)``; return the states of the K clients."""
    stack = ClientStack(start, len(images))
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        sample_losses(stack(images), labels).mean(1).sum().backward()
        optimizer.step()
    return stack.stacked_state()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 70), max_size=2),
    st.sampled_from([3, 7, 10, 62]),
    st.integers(2, 16),
    st.integers(2, 4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_joined_stacks_train_like_single_ones(
    batch: int, widths: list[int], num_classes: int, least: int, count: int, dtype: torch.dtype
) -> None:
    """Bit for bit, with a last stack that is smaller."""
    spec = DataSpec(1, 6, num_classes)
    start = MLP(spec, widths=widths).to(dtype)
    size = next(more for more in range(least, 17) if can_be_joined(start, batch, more))
    images = torch.randn(size * count + 2, batch, *spec.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    labels = torch.arange(batch).remainder(num_classes).expand(len(images), batch)
    together = trained(start, images, labels)
    for part in torch.arange(len(images)).split(size):
        alone = trained(start, images[part], labels[part])
        assert all(torch.equal(alone[name], together[name][part]) for name in alone)


def test_only_aligned_chains_of_linear_layers_can_be_joined() -> None:
    """With batches of 20 and ten classes a client has 800 bytes of logits: two have a multiple of 64, five have not."""
    assert [size for size in range(1, 9) if can_be_joined(net(), 20, size)] == [2, 4, 6, 8]
    assert not can_be_joined(SmallCNN(SPEC), 20, 16)
    assert can_be_joined(net(), 7, 16)
    assert size_to_join(5, net(), 20) == 4
    assert size_to_join(5, net(), 7) == 5
