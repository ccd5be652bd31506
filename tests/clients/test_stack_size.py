from __future__ import annotations

from lpft.clients.stack_size import clients_per_stack, forward_flops
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


def test_a_number_is_taken_as_it_is() -> None:
    assert clients_per_stack(7, net(), SPEC, 32, 10, "cpu") == 7
