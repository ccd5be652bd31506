"""Images by position, normalized at once or batch by batch."""

from __future__ import annotations

import pytest
import torch

from lpft.clients import device_data
from lpft.clients.device_data import DeviceSamples
from tests.toy import toy_data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_that_are_kept_equal_those_made_when_needed(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    data, index = toy_data(), torch.tensor([[3, 0], [1, 3]])
    kept = DeviceSamples(data, torch.device("cpu"))
    images = kept.images(index, dtype)
    monkeypatch.setattr(device_data, "KEPT_NUMBERS", 0)
    made = DeviceSamples(data, torch.device("cpu")).images(index, dtype)
    assert images.dtype == dtype
    assert torch.equal(images, made)


def test_a_caller_that_changes_images_does_not_change_those_that_are_kept() -> None:
    samples, index = DeviceSamples(toy_data(), torch.device("cpu")), torch.arange(3)
    before = samples.images(index, torch.float32).clone()
    samples.images(index, torch.float32).zero_()
    assert torch.equal(samples.images(index, torch.float32), before)
