from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torchvision.transforms import functional as reference

from lpft.data.transforms import Augment, FlipCrop, FlipRotate, ResizedCrop

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "augment").glob("*.yaml"))
HALF = 0.5  # the draw that does not flip, does not turn and takes the box in the middle


def images(num: int = 6, channels: int = 3, size: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, size, size), dtype=torch.uint8, generator=generator)


def uniform(num: int, count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(num, count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("channels", [1, 3])
def test_shipped_augmentations_change_every_image_by_its_own_draws(path: Path, channels: int) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=Augment, sub_configs=True)
    augment = parser.instantiate(parser.parse_args([f"--augment={path}"])).augment
    x, draws = images(channels=channels), uniform(6, augment.num_draws)
    changed = augment(x, draws)
    assert (changed.shape, changed.dtype) == (x.shape, torch.uint8)
    assert all(torch.equal(augment(x[i : i + 1], draws[i : i + 1])[0], changed[i]) for i in range(6))
    assert torch.equal(augment(x, draws), changed)
    same = augment(x[:1].expand(40, -1, -1, -1), uniform(40, augment.num_draws))
    assert len({image.numpy().tobytes() for image in same}) > 15  # there are 25 crops of digits
    assert torch.equal(x, images(channels=channels))


def test_flip_and_crop_by_hand() -> None:
    """A crop that starts at row 0 and column 2 of the padded image moves everything down and to the left by one."""
    x = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    draws = torch.tensor([[HALF, 0.0, 0.99]])
    moved = torch.tensor([[0, 0, 0], [2, 3, 0], [5, 6, 0]])
    assert torch.equal(FlipCrop(pad=1)(x, draws)[0, 0], moved.to(torch.uint8))
    flipped = torch.tensor([[0, 0, 0], [3, 2, 1], [6, 5, 4]])
    draws = torch.tensor([[0.49, 0.0, 0.4]])
    assert torch.equal(FlipCrop(pad=1)(x, draws)[0, 0], flipped.to(torch.uint8))
    assert torch.equal(FlipCrop(pad=1, flip=False)(x, torch.tensor([[0.49, HALF, HALF]])), x)


def test_every_crop_is_as_likely_and_half_of_the_images_are_flipped() -> None:
    x = torch.zeros(20_000, 1, 3, 3, dtype=torch.uint8)
    x[:, 0, 1, 0], x[:, 0, 1, 1] = 1, 2  # the place of the 2 tells the crop, the side of the 1 the flip
    changed = FlipCrop(pad=1)(x, uniform(len(x), 3))
    places = (changed == 2).flatten(1)
    shares = places.double().mean(0)
    assert shares.sum() == 1
    torch.testing.assert_close(shares, torch.full((9,), 1 / 9, dtype=torch.float64), atol=0.01, rtol=0)
    in_the_middle = changed[places[:, 4]]
    assert (in_the_middle[:, 0, 1, 2] == 1).double().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("draw", [0.0, 0.2, HALF, 0.9])
@pytest.mark.parametrize("flip", [True, False])
def test_rotation_is_torchvisions(draw: float, flip: bool) -> None:
    x = images()
    turned = FlipRotate(flip=flip, degrees=90)(x, torch.tensor([[0.1, draw]]).expand(6, -1))
    expected = reference.rotate(reference.hflip(x) if flip else x, (2 * draw - 1) * 90)
    assert (turned == expected).double().mean() > 0.99  # ties between two pixels fall this way or that


def test_a_box_as_large_as_the_image_is_the_image() -> None:
    x, draws = images(), uniform(6, 5)
    draws[:, 0] = HALF
    assert torch.equal(ResizedCrop(smallest=1.0, ratio=1.0)(x, draws), x)
    draws[:, 0] = 0.49
    assert torch.equal(ResizedCrop(smallest=1.0, ratio=1.0)(x, draws), x.flip(3))


def test_a_box_by_hand() -> None:
    """The right half of the upper half of a ramp: each step of a pixel becomes half a step."""
    x = (10 * torch.arange(8, dtype=torch.uint8)).expand(1, 1, 8, 8)
    box = ResizedCrop(smallest=0.25, ratio=1.0)(x, torch.tensor([[HALF, 0.0, HALF, 1.0, 0.0]]))
    # The box reaches from 4 to 8; its pixels are 1/2 wide, with centres 4.25, 4.75 ..., those of the image 4.5, 5.5 ...
    expected = torch.tensor([37.5, 42.5, 47.5, 52.5, 57.5, 62.5, 67.5, 70.0])
    torch.testing.assert_close(box[0, 0].float(), expected.expand(8, 8), atol=0.5, rtol=0)


def test_boxes_are_as_large_and_as_wide_as_they_may_be() -> None:
    """On two ramps, one along each side, the span of the values tells width and height of the box."""
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8)
    x = torch.stack([ramp.expand(64, 64), ramp.view(-1, 1).expand(64, 64)]).expand(500, -1, -1, -1)
    boxes = ResizedCrop(smallest=0.4, ratio=2.0, flip=False)(x, uniform(500, 5)).float()
    width = (boxes[:, 0, 0, -1] - boxes[:, 0, 0, 0]) / 252
    height = (boxes[:, 1, -1, 0] - boxes[:, 1, 0, 0]) / 252
    shape = width / height
    assert (width * height).min() > 0.33
    assert 0.45 < shape.min() < 0.7
    assert 1.4 < shape.max() < 2.2


@pytest.mark.parametrize("settings", [{"smallest": 1.5}, {"ratio": 0.5}])
def test_boxes_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="HINT"):
        ResizedCrop(**settings)
