from __future__ import annotations

import pytest
import torch

from lpft.clients.device_data import DeviceSamples
from lpft.data.transforms import FlipCrop
from tests.toy import toy_data

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_normalized_once_equal_those_normalized_on_demand(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_data()
    index = torch.tensor([[3, 0, 3], [1, 2, 7]])
    kept = DeviceSamples(data, CPU).images(index, dtype)
    monkeypatch.setattr("lpft.clients.device_data.KEPT_NUMBERS", 0)
    made = DeviceSamples(data, CPU).images(index, dtype)
    assert torch.equal(kept, made)
    assert kept.stride() == made.stride()
    assert torch.equal(made, data.normalize(data.images[index], dtype))


def test_augmented_images_are_never_cached() -> None:
    data = toy_data()
    index, draws = torch.arange(6), torch.full((6, 3), 0.9)
    plain = DeviceSamples(data, CPU).images(index, torch.float32, draws)
    data.augment = FlipCrop(pad=2)
    samples = DeviceSamples(data, CPU)
    assert torch.equal(samples.images(index, torch.float32), plain)
    assert not torch.equal(samples.images(index, torch.float32, draws), plain)
