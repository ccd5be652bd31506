import struct

import numpy as np
import pytest
from PIL import Image

from lpft.data.sources.image_files import decode_files, read_image
from lpft.data.sources.pixels import TURNS, Depth, Notes, PixelSettings
from tests.rasters import chunk, save_png, save_tiff

VALUES = np.arange(12).reshape(3, 4) * 372
"""From 0 to 4092: an X-ray of 12 bits."""

INK = np.array([[0, 255, 0, 0], [0, 255, 0, 0], [0, 255, 255, 0], [0, 0, 0, 0]], np.uint8)
"""Opacity of black ink on a transparent ground."""

TWELVE = PixelSettings(value_range=(0, 4095))


def read(path, channels=1, settings=PixelSettings(), notes=None):  # noqa: B008
    """Read an image at its own size, which need not be square."""
    from lpft.data.sources.pixels import read_pixels

    image = read_pixels(path, settings, Notes() if notes is None else notes)
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def saved(path, array, **how):
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **how)
    return path


def colours(values):
    """Three different channels."""
    return np.stack([values, values[::-1], values[:, ::-1]], -1)


DEEP = {
    "PNG": lambda path: save_png(path, VALUES),
    "PGM": lambda path: path.write_bytes(b"P5 4 3 65535\n" + VALUES.astype(">u2").tobytes()) and path,
    "TIFF": lambda path: save_tiff(path, VALUES.astype("<u2")),
    "TIFF, other byte order": lambda path: save_tiff(path, VALUES.astype(">u2")),
    "TIFF, compressed": lambda path: saved(path, VALUES.astype(np.uint16), format="TIFF", compression="tiff_lzw"),
    "TIFF, signed": lambda path: save_tiff(path, VALUES.astype("<i2")),
    "TIFF, 32 bits": lambda path: save_tiff(path, VALUES.astype("<i4")),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_from_what_their_files_can_hold_or_from_the_range_that_is_set(kind, tmp_path):
    path = DEEP[kind](tmp_path / "x.png")
    notes = Notes()
    assert np.array_equal(read(path, notes=notes), VALUES >> 8)
    assert notes.depths == [Depth(65535, 1, 0, 4092)]
    assert np.array_equal(read(path, settings=TWELVE), VALUES >> 4)
    clipped = read(path, settings=PixelSettings(value_range=(1000, 2000)))
    assert np.array_equal(clipped == 0, VALUES < 1000 + 1000 / 256)
    assert np.array_equal(clipped == 255, VALUES >= 2000 - 1000 / 256)


def test_a_file_with_its_own_range_is_scaled_by_it(tmp_path):
    path, notes = tmp_path / "x.pgm", Notes()
    path.write_bytes(b"P5 4 3 4095\n" + VALUES.astype(">u2").tobytes())
    assert np.array_equal(read(path, notes=notes), VALUES >> 4)
    assert notes.depths == [Depth(4095, 1, 0, 4092)]
    assert np.array_equal(read(path, settings=TWELVE), VALUES >> 4)


DEEP_COLOURS = {
    "PNG": save_png,
    "TIFF": lambda path, values: save_tiff(path, values.astype("<u2")),
    "TIFF, other byte order": lambda path, values: save_tiff(path, values.astype(">u2")),
}


@pytest.mark.parametrize("kind", DEEP_COLOURS)
def test_deep_colours_keep_their_low_bytes(kind, tmp_path):
    path, notes = DEEP_COLOURS[kind](tmp_path / "x.png", colours(VALUES)), Notes()
    assert np.array_equal(read(path, 3, notes=notes), colours(VALUES) >> 8)
    assert np.array_equal(read(path, 3, TWELVE), colours(VALUES) >> 4)
    assert notes.depths == [Depth(65535, 1, 0, 4092)]


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_with_an_alpha_channel(channels, tmp_path):
    values = VALUES[..., None].repeat(channels, -1)
    clear = np.array([[0, 65535, 65535, 65535]] * 3)
    path = save_png(tmp_path / "x.png", np.concatenate([values, clear[..., None]], -1))
    assert np.array_equal(read(path, settings=TWELVE), np.where(clear == 0, 255, VALUES >> 4))


def test_white_may_be_zero(tmp_path):
    path = save_tiff(tmp_path / "x.tif", VALUES.astype("<u2"), photometric=0)
    assert np.array_equal(read(path, settings=TWELVE), 255 - (VALUES >> 4))


def test_floating_point_numbers_go_from_0_to_1_unless_a_range_is_set(tmp_path):
    unit = (VALUES / 4092).astype("<f4")
    assert np.array_equal(read(save_tiff(tmp_path / "x.tif", unit)), np.floor(unit * 256).clip(0, 255))
    path = save_tiff(tmp_path / "x.tif", (unit * 3000 - 1000).astype("<f4"))
    with pytest.raises(ValueError, match=r"go from -1000 to 2000, expected 0 to 1; .*'\[-1000,2000\]'"):
        read(path)
    assert read(path, settings=PixelSettings(value_range=(-1000, 2000))).tolist()[0][0] == 0
    unit[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read(save_tiff(tmp_path / "x.tif", unit), settings=TWELVE)


def test_negative_values_need_a_range(tmp_path):
    path = save_tiff(tmp_path / "x.tif", (VALUES - 1000).astype("<i2"))
    with pytest.raises(ValueError, match=r"'\[-1000,3092\]'"):
        read(path)
    assert np.array_equal(read(path, settings=PixelSettings(value_range=(-1000, 3095))), VALUES >> 4)


def palette():
    """White ground, black ink."""
    image = Image.fromarray(INK // 255).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def with_alpha(image):
    image.putalpha(Image.fromarray(INK))
    return image


TRANSPARENT = {
    "RGBA": lambda path: saved(path, Image.fromarray(np.stack([0 * INK] * 3 + [INK], -1))),
    "LA": lambda path: saved(path, Image.fromarray(np.stack([0 * INK, INK], -1))),
    "PA": lambda path: saved(path, with_alpha(palette()), format="TIFF"),
    "P, an opacity for each colour": lambda path: saved(path, palette(),
                                                        transparency=b"\0\xff"),
    "P, one colour": lambda path: saved(path, palette(), transparency=0),
    "GIF": lambda path: saved(path, palette(), format="GIF", transparency=0),
    "L": lambda path: save_png(path, np.where(INK, 0, 9), chunk(b"tRNS", b"\0\x09"), bits=8),
    "RGB": lambda path: save_png(path, np.stack([np.where(INK, 0, 9)] * 3, -1), chunk(b"tRNS", b"\0\x09" * 3), bits=8),
    "1": lambda path: save_png(path, np.packbits(np.repeat(INK == 0, 2, 1), axis=1), chunk(b"tRNS", b"\0\1"), bits=1),
    "L, 2 bits": lambda path: save_png(path, np.packbits(np.kron(INK == 0, [0, 1]), axis=1), chunk(b"tRNS", b"\0\1"),
                                       bits=2),
    "L, 16 bits": lambda path: save_png(path, np.where(INK, 0, 999), chunk(b"tRNS", b"\x03\xe7")),
    "RGB, 16 bits": lambda path: save_png(path, np.stack([np.where(INK, 0, 999)] * 3, -1),
                                          chunk(b"tRNS", b"\x03\xe7" * 3)),
    "WebP": lambda path: saved(path, Image.fromarray(np.stack([0 * INK] * 3 + [INK], -1)), format="WEBP",
                               lossless=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_black_ink_on_a_transparent_ground_is_seen(kind, tmp_path):
    path = TRANSPARENT[kind](tmp_path / "x.png")
    ink = np.repeat(INK, 2, 1) if kind == "1" else INK
    assert np.array_equal(read(path), 255 - ink)
    assert not read(path, settings=PixelSettings(background=(0, 0, 0))).any()


def test_half_transparent_colours_are_mixed_with_the_background(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("RGBA", (4, 4), (10, 200, 30, 51)))  # a fifth
    assert read(path, 3)[0, 0].tolist() == [206, 244, 210]
    assert read(path, 3, PixelSettings(background=(0, 0, 0)))[0, 0].tolist() == [2, 40, 6]


def odd_exif(orientation):
    """Orientation, and a horizontal resolution of type text."""
    tags = struct.pack("<HHHII", 2, 0x0112, 3, 1, orientation) + struct.pack("<HHII", 0x011A, 2, 7, 38)
    return b"Exif\0\0II*\0\x08\0\0\0" + tags + bytes(4) + b"72 dpi\0"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF, compressed"])
@pytest.mark.parametrize("orientation", TURNS)
def test_odd_metadata_do_not_hide_the_orientation(kind, orientation, tmp_path):
    """A resolution in words makes Pillow's `exif_transpose` raise a TypeError when it writes the metadata anew."""
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}
    path = tmp_path / "x"
    if kind == "TIFF":
        save_tiff(path, stored, orientation=orientation)
    elif kind == "TIFF, compressed":
        saved(path, stored, format="TIFF", tiffinfo={0x0112: orientation}, compression="tiff_lzw")
    else:
        image = Image.fromarray(stored).convert("RGB")
        saved(path, image, format=kind, exif=odd_exif(orientation), **how.get(kind, {}))
    upright = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation])).astype(int)
    assert read(path).shape == upright.shape
    assert abs(read(path).astype(int) - upright).max() <= 3


def test_frames_are_counted_and_the_first_is_read(tmp_path):
    shades = [Image.new("L", (4, 4), level) for level in (50, 250)]
    names = []
    for kind in ("TIFF", "GIF", "WEBP", "PNG", "MPO"):
        frames = [shade.convert("RGB") for shade in shades]
        frames[0].save(tmp_path / kind, format=kind, save_all=True, append_images=frames[1:])
        names.append(kind)
    saved(tmp_path / "one.tif", shades[0])
    decoded = decode_files(tmp_path, [*names, "one.tif"], 1, 4)
    assert decoded.bad == []
    assert abs(decoded.images.astype(int) - 50).max() <= 2
    assert decoded.notes.frames == [str(tmp_path / kind) for kind in names]


@pytest.mark.parametrize("error", [TypeError, KeyError, ZeroDivisionError, MemoryError, RecursionError])
def test_whatever_the_decoder_raises_is_that_files_problem(error, tmp_path, monkeypatch):
    for name in ("bad.png", "good.png"):
        saved(tmp_path / name, INK)

    def raising(stream):
        if stream.name.endswith("bad.png"):
            raise error
        return opened(stream)

    opened = Image.open
    monkeypatch.setattr(Image, "open", raising)
    decoded = decode_files(tmp_path, ["bad.png", "good.png"], 1, 4)
    assert decoded.good.tolist() == [False, True]
    assert decoded.bad == [f"{tmp_path / 'bad.png'} ({error.__name__})"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "download it again"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"anything", "no image that Pillow knows"),
    ],
)
def test_what_is_no_image_is_recognized(content, said, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    assert said in decode_files(tmp_path, ["x.png"], 1, 4).bad[0]


def test_names_are_written_in_one_line(tmp_path):
    name = "two\nlines \udcff.png"
    (tmp_path / name).write_bytes(b"")
    (bad,) = decode_files(tmp_path, [name], 1, 4).bad
    assert bad.isprintable()
    assert r"two\nlines \udcff.png" in bad


@pytest.mark.parametrize("settings", [("red-ish", None, None), ("white", 17, None), ("white", 12, [0, 1]),
                                      ("white", None, [1, 1]), ("white", None, [1])])  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValueError, match="HINT"):
        PixelSettings.of(*settings)


def test_odd_shapes(tmp_path):
    for size in ((1, 1), (3000, 1), (1, 3000)):
        assert read_image(saved(tmp_path / "x.png", Image.new("RGB", size, "red")), 3, 4)[0].min() == 255
