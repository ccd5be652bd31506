from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpft.clients.batches import StackSamples, epoch_order, stacks
from lpft.runtime.seeding import generator
from tests.toy import toy_data


@given(st.integers(1, 200), st.integers(1, 64))
def test_every_sample_is_seen_and_every_batch_is_full(num_samples: int, batch_size: int) -> None:
    order = epoch_order(num_samples, batch_size, generator(0))
    assert len(order) % batch_size == 0
    assert len(order) - num_samples < batch_size
    assert sorted(order[:num_samples].tolist()) == list(range(num_samples))
    assert torch.equal(order[num_samples:], order[:num_samples].repeat(batch_size)[: len(order) - num_samples])


def test_batches_depend_only_on_key_and_name() -> None:
    data = toy_data()
    together = StackSamples.of(data, [0, 3], batch_size=8).epoch(0, "stage", 5)
    alone = StackSamples.of(data, [3], batch_size=8).epoch(0, "stage", 5)
    assert torch.equal(together[:, 1], alone[:, 0])
    assert not torch.equal(alone, StackSamples.of(data, [3], batch_size=8).epoch(0, "stage", 6))


def test_draws_depend_only_on_key_and_name() -> None:
    data = toy_data()
    together = StackSamples.of(data, [0, 3], batch_size=8).draws(2, 0, "augment", 5)
    alone = StackSamples.of(data, [3], batch_size=8).draws(2, 0, "augment", 5)
    assert together.shape == (3, 2, 8, 2)
    assert torch.equal(together[:, 1], alone[:, 0])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(alone, StackSamples.of(data, [3], batch_size=8).draws(2, 0, "augment", 6))


def test_positions_lead_to_the_clients_own_samples() -> None:
    data = toy_data()
    samples = StackSamples.of(data, [0, 3], batch_size=8)
    for positions in samples.epoch(0):
        for k, client in enumerate((0, 3)):
            assert set(samples.in_dataset(positions)[k].tolist()) <= set(data.clients[client].train.tolist())


def test_clients_with_different_numbers_of_steps_do_not_stack() -> None:
    with pytest.raises(ValueError, match="same number of steps"):
        StackSamples.of(toy_data(), [0, 1], batch_size=8)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 8))
def test_stacks_hold_every_client_once(num_samples: list[int], batch_size: int, size: int) -> None:
    parts = stacks(range(len(num_samples)), num_samples, batch_size, size)
    assert sorted(client for part in parts for client in part) == list(range(len(num_samples)))
    for part in parts:
        assert len(part) <= size
        assert len({-(-num_samples[client] // batch_size) for client in part}) == 1
