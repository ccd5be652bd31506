"""Expectations come from the published formulas, with the standard library or Pillow where those have them."""

import colorsys
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from lpft.data.sources import corruptions
from lpft.data.sources.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def rng(seed=0):
    return np.random.default_rng(seed)


def photo(seed=0, size=32):
    """A made-up picture: a gradient with patches of five by five pixels."""
    patches = np.kron(rng(seed).uniform(size=(size // 5 + 1, size // 5 + 1, 3)), np.ones((5, 5, 1)))[:size, :size]
    return (255 * (0.3 * np.linspace(0, 1, size)[:, None, None] + 0.6 * patches)).astype(np.uint8)


def flat(value, size=32):
    return np.full((size, size, 3), value, np.uint8)


def dot(size=33):
    """A white pixel in the middle of a black image: what a blur makes of it is its kernel."""
    image = flat(0, size)
    image[size // 2, size // 2] = 255
    return image


def test_all_nineteen_are_named_as_in_the_archive():
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 19
    assert CORRUPTIONS[:3] == ("gaussian_noise", "shot_noise", "impulse_noise")
    assert CORRUPTIONS[15:] == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_form_and_seed(corruption):
    """Bytes in, bytes out, the input untouched, the same for the same seed; every severity does something."""
    image = photo()
    for severity in SEVERITIES:
        changed = corrupt(image, corruption, severity, rng(1))
        assert changed.dtype == np.uint8
        assert changed.shape == image.shape
        assert np.array_equal(image, photo())
        assert np.array_equal(changed, corrupt(image, corruption, severity, rng(1)))
        assert (changed != image).any()


DRAWN = ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"]
DRAWN += ["elastic_transform", "speckle_noise", "spatter"]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_what_is_drawn_depends_on_the_seed_and_nothing_else_does(corruption):
    same = np.array_equal(corrupt(photo(), corruption, 5, rng(1)), corrupt(photo(), corruption, 5, rng(2)))
    assert same == (corruption not in DRAWN)


MILD_TO_STRONG = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "defocus_blur", "motion_blur"]
MILD_TO_STRONG += ["zoom_blur", "gaussian_blur", "fog", "brightness", "contrast", "snow"]


@pytest.mark.parametrize("corruption", MILD_TO_STRONG)
def test_a_higher_severity_changes_more(corruption):
    """The others' constants do not grow in one direction, or their grid fits the patches by chance (pixelate)."""
    photos = [photo(seed) for seed in range(8)]
    changes = [
        np.mean([np.abs(corrupt(image, corruption, severity, rng(0)) - image.astype(float)).mean() for image in photos])
        for severity in SEVERITIES
    ]
    # motion_blur's severities 3 and 4 have the same width: only tails of the kernel differ, less than 0.3% of it
    assert all(milder < 1.003 * stronger for milder, stronger in pairwise(changes))


@pytest.mark.parametrize(
    ("corruption", "std_of"),
    [
        ("gaussian_noise", lambda level, x: level),
        ("speckle_noise", lambda level, x: level * x),
        ("shot_noise", lambda level, x: math.sqrt(x / level)),
    ],
)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_spread(corruption, std_of, severity):
    """sigma; sigma times the pixel; a Poisson count over its scale c has the variance x / c."""
    published = {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
        "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
        "shot_noise": [500, 250, 100, 75, 50],
    }
    x = 102 / 255
    noise = corrupt(flat(102, 200), corruption, severity, rng()) / 255 - x
    assert noise.std() == pytest.approx(std_of(published[corruption][severity - 1], x), rel=0.01, abs=0.4 / 255)
    assert noise.mean() == pytest.approx(-0.5 / 255, abs=0.001)  # cut to whole numbers


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulses_are_as_many_black_as_white(severity):
    share = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    changed = corrupt(flat(102, 300), "impulse_noise", severity, rng())
    assert set(np.unique(changed)) == {0, 102, 255}
    for value in (0, 255):
        assert (changed == value).mean() == pytest.approx(share / 2, rel=0.06)


def test_gaussian_blur_of_a_dot_is_the_bell():
    for severity, sigma in enumerate([0.4, 0.6, 0.7, 0.8, 1.0], 1):
        weights = [math.exp(-((k / sigma) ** 2) / 2) for k in range(-4, 5)]
        expected = [255 * weight * weights[4] / sum(weights) ** 2 for weight in weights]
        assert corrupt(dot(), "gaussian_blur", severity, rng())[16, 12:21, 0] == pytest.approx(expected, abs=1.01)


def test_defocus_of_a_dot_is_a_disk():
    """Of radius 1: five pixels, 255 / 5 = 51 each; of radius 1.5: nine pixels, 255 / 9 = 28.3 each."""
    plus = np.array([[0, 51, 0], [51, 51, 51], [0, 51, 0]])
    assert np.abs(corrupt(dot(), "defocus_blur", 4, rng())[15:18, 15:18, 1] - plus).max() <= 1
    box = corrupt(dot(), "defocus_blur", 5, rng())[..., 1]
    assert np.unique(box[15:18, 15:18]).tolist() == [28]
    assert np.count_nonzero(box) == 9
    corner, side = math.exp(-1 / 0.4**2), math.exp(-1 / 0.4**2 / 2)  # severity 1: only the smoothing, of sigma 0.4
    middle = corrupt(dot(), "defocus_blur", 1, rng())[15:18, 15:18, 0]
    expected = np.array([[corner, side, corner], [side, 1, side], [corner, side, corner]])
    assert middle == pytest.approx(255 * expected / expected.sum(), abs=1.01)


def test_streaks_are_half_a_bell_on_a_line():
    """Radius 6 and sigma 2: weights exp(-k^2 / 8) for k = 0 to 12, from the dot to the left, or up at 90 degrees."""
    weights = [math.exp(-(k**2) / 8) for k in range(13)]
    expected = [weight / sum(weights) for weight in weights]
    for degrees, line in ((0, np.s_[16, 16:3:-1, 0]), (90, np.s_[16:3:-1, 16, 0])):
        streaked = corruptions._streaked(dot() / 255, 6, 2, degrees)
        assert streaked[line] == pytest.approx(expected)
        assert streaked[..., 0].sum() == pytest.approx(1)
    diagonal = corruptions._streaked(dot() / 255, 6, 2, 45)[..., 0]
    assert np.diag(diagonal).sum() == pytest.approx(1)


def test_motion_blur_goes_sideways():
    for seed in range(10):
        blurred = corrupt(dot(), "motion_blur", 5, rng(seed))[..., 0]
        rows, columns = np.nonzero(blurred)
        assert (columns <= 16).all()
        assert (np.abs(rows - 16) <= 16 - columns + 1).all()
        assert columns.min() < 13


def test_zoom_blur_of_a_ramp():
    """Enlarged by z about the middle, a ramp of slope 1 has the slope 1 / z; z is 1 and 1.00, 1.01, ..., 1.25."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 7, (32, 32, 3)).copy()
    row = corrupt(ramp, "zoom_blur", 5, rng())[16, :, 0].astype(float)
    expected = 7 * np.mean([1, *(1 / (1 + k / 100) for k in range(26))])
    assert (row[28] - row[4]) / 24 == pytest.approx(expected, rel=0.02)
    assert np.isin(corrupt(flat(90), "zoom_blur", 5, rng()), (89, 90)).all()


def test_glass_takes_pixels_from_above_and_left():
    """Severity 1 blurs with sigma 0.05, which does nothing: every pixel is one of four, the rim of two stays."""
    image = (np.arange(32 * 32 * 3) * 37 % 251).reshape(32, 32, 3).astype(np.uint8)
    changed = corrupt(image, "glass_blur", 1, rng()).astype(int)
    assert np.abs(changed[:2] - image[:2]).max() <= 2  # cut to whole numbers twice
    assert np.abs(changed[:, :2] - image[:, :2]).max() <= 2
    sources = np.stack([image[2 - up : 32 - up, 2 - left : 32 - left] for up in (0, 1) for left in (0, 1)]).astype(int)
    fits = (np.abs(sources - changed[2:, 2:]) <= 2).all(-1)
    assert fits.any(0).all()
    assert fits.mean((1, 2)) == pytest.approx([0.25] * 4, abs=0.06)


def test_contrast_is_linear_about_the_mean():
    image = photo()
    for severity, factor in enumerate([0.75, 0.5, 0.4, 0.3, 0.15], 1):
        mean = image.mean((0, 1))
        changed = corrupt(image, "contrast", severity, rng())
        assert np.abs(changed - (mean + factor * (image - mean)) + 0.5).max() <= 0.51


def by_hsv(image, change):
    """Change hue, saturation and value with the standard library, pixel by pixel."""
    pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in image.reshape(-1, 3) / 255]
    return np.reshape(pixels, image.shape) * 255


def coloured():
    image = rng().integers(256, size=(32, 32, 3)).astype(np.uint8)
    image[:2] = 0
    image[2:4] = 255
    image[4:6] = 77
    return image


def test_brightness_raises_the_value():
    for severity, more in enumerate([0.05, 0.1, 0.15, 0.2, 0.3], 1):
        expected = by_hsv(coloured(), lambda h, s, v, more=more: (h, s, min(v + more, 1)))
        assert np.abs(corrupt(coloured(), "brightness", severity, rng()) - expected + 0.5).max() <= 0.51


def test_saturate_changes_the_saturation():
    for severity, (factor, more) in enumerate([(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)], 1):
        expected = by_hsv(coloured(), lambda h, s, v, f=factor, m=more: (h, min(max(f * s + m, 0), 1), v))
        assert np.abs(corrupt(coloured(), "saturate", severity, rng()) - expected + 0.5).max() <= 0.51


def test_jpeg_and_pixelate_are_pillows():
    image = photo()
    for severity, quality in enumerate([80, 65, 58, 50, 40], 1):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        assert np.array_equal(corrupt(image, "jpeg_compression", severity, rng()), np.asarray(Image.open(file)))
    for severity, side in enumerate([30, 28, 27, 24, 20], 1):
        small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX))
        assert np.array_equal(corrupt(image, "pixelate", severity, rng()), expected)


def test_fog_lies_between_none_and_all_of_it():
    """On a flat image of 0.4: from 0.4 * 0.4 / (0.4 + c), where the cloud is 0, to 0.4, where it is 1."""
    for severity, strength in enumerate([0.2, 0.5, 0.75, 1, 1.5], 1):
        changed = corrupt(flat(102), "fog", severity, rng(severity))
        assert changed.min() == pytest.approx(255 * 0.4 * 0.4 / (0.4 + strength), abs=1.01)
        assert changed.max() == pytest.approx(102, abs=1.01)
        assert np.array_equal(changed[..., 0], changed[..., 2])


def test_clouds_are_rougher_where_their_range_shrinks_slowly():
    def roughness(decay):
        clouds = [corruptions._plasma(32, decay, rng(seed)) for seed in range(20)]
        return np.mean([np.abs(np.diff(cloud)).mean() for cloud in clouds])

    assert roughness(1.2) > roughness(1.75) > roughness(3)
    cloud = corruptions._plasma(64, 2, rng())
    assert (cloud.shape, cloud.min(), cloud.max()) == ((64, 64), 0, 1)


def test_frost_keeps_a_part_and_adds_the_rest():
    """With the same texture, two images differ by `kept` times what they differed by; on black the texture is left."""
    for severity, (kept, strength) in enumerate([(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)], 1):
        on_black, on_grey = (corrupt(flat(value), "frost", severity, rng(7)).astype(float) for value in (0, 90))
        assert np.abs(on_grey - on_black - kept * 90).max() <= 1
        assert 0.35 * strength < on_black.mean() / 255 < 0.9 * strength
        assert on_black.std() / 255 > 0.03 * strength
        assert on_black[..., 2].mean() > on_black[..., 0].mean()  # bluish


def test_snow_falls_twice_the_second_time_turned():
    """On a flat image everything is the same turned by 180 degrees, and never darker than the whitened image."""
    for severity, kept in enumerate([0.95, 0.9, 0.9, 0.85, 0.8], 1):
        changed = corrupt(flat(102), "snow", severity, rng(severity))
        assert np.array_equal(changed, changed[::-1, ::-1])
        whitened = kept * 0.4 + (1 - kept) * (0.4 * 1.5 + 0.5)
        assert changed.min() >= math.floor(255 * whitened)
        assert changed.max() > changed.min()


def test_mud_covers_and_water_shines():
    mud = np.array([63, 42, 20])
    for severity in (4, 5):
        changed = np.concatenate([corrupt(flat(200), "spatter", severity, rng(seed)) for seed in range(20)])
        hit = changed[(changed != 199).all(-1) & (changed != 200).all(-1)].astype(float)
        assert 0.005 < len(hit) / 20 / 32**2 < 0.2
        cover = (200 - hit) / (200 - mud)  # at least 0.8 of it is mud, in all three colours alike
        assert cover.min() > 0.79
        assert np.ptp(cover, axis=1).max() < 0.02
    for severity in (1, 2, 3):
        changed = corrupt(flat(0), "spatter", severity, rng(severity))
        assert changed.max(axis=(0, 1)).tolist() == [87, 119, 119]  # half of 175, 238, 238


def test_elastic_moves_pixels_and_keeps_flat_areas():
    """A corner moves by at most 0.08 of 32 pixels, 2.6 in a direction; the map is affine in between and outside."""
    assert (np.abs(corrupt(flat(90), "elastic_transform", 5, rng()).astype(int) - 90) <= 1).all()
    columns = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 7, (32, 32, 3)).copy()
    for seed in range(5):
        moved = corrupt(columns, "elastic_transform", 1, rng(seed))[11:21, 11:21, 0] / 7.0
        at = np.arange(11, 21)
        assert np.abs(moved - at).max() < 3 * 0.08 * 32
        rows = np.c_[np.ones(100), np.repeat(at, 10), np.tile(at, 10)]
        plane, *_ = np.linalg.lstsq(rows, moved.ravel(), rcond=None)
        assert np.abs(rows @ plane - moved.ravel()).max() < 0.2


@pytest.mark.parametrize(
    ("image", "severity", "message"),
    [
        (np.zeros((32, 32, 3)), 1, "float64"),
        (np.zeros((32, 32), np.uint8), 1, r"\(32, 32\)"),
        (np.zeros((32, 30, 3), np.uint8), 1, r"\(32, 30, 3\), expected"),
        (flat(0), 6, "`severity=6` is none of 1, 2, 3, 4, 5"),
    ],
)
def test_other_images_and_severities_are_refused(image, severity, message):
    with pytest.raises(ValueError, match=message):
        corrupt(image, "fog", severity, rng())
