import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lpft.data.sources.image_files import decode_files, read_image, resize, stamp

RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def saved(folder, image, name="x.png", **how):
    image.save(folder / name, **how)
    return folder / name


def test_grey_and_rgb_become_what_is_wanted(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP))
    assert np.array_equal(read_image(path, 1, 4), RAMP[None])
    assert np.array_equal(read_image(path, 3, 4), np.stack([RAMP] * 3))
    red = saved(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0)), "red.png")
    assert read_image(red, 3, 4)[:, 0, 0].tolist() == [255, 0, 0]
    assert (read_image(red, 1, 4) == 76).all()  # 0.299 * 255


def test_palettes_and_single_bits(tmp_path):
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4)
    assert read_image(saved(tmp_path, palette, "p.png"), 3, 4)[:, 0, 0].tolist() == [10, 200, 30]
    assert (read_image(saved(tmp_path, Image.new("1", (4, 4), 1), "b.png"), 1, 4) == 255).all()


def test_photographs_are_turned_as_their_camera_was(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: to be shown rotated by 90 degrees, clockwise
    path = saved(tmp_path, Image.fromarray(RAMP), exif=turned)
    assert np.array_equal(read_image(path, 1, 4)[0], np.rot90(RAMP, -1))


def test_the_middle_is_cut_out(tmp_path):
    wide = saved(tmp_path, Image.fromarray(np.pad(RAMP, ((0, 0), (3, 3)))))
    assert np.array_equal(read_image(wide, 1, 4, crop=4)[0], RAMP)


def test_bad_files_are_named_and_the_others_read(tmp_path):
    good = saved(tmp_path, Image.fromarray(RAMP), "good.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.png").write_text("not an image")
    saved(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "float.tif")
    names = ["cut.png", "good.png", "text.png", "missing.png", "float.tif"]
    decoded = decode_files(tmp_path, names, 1, 4)
    assert decoded.good.tolist() == [False, True, False, False, False]
    assert np.array_equal(decoded.images, RAMP[None, None])
    assert [name in said for name, said in zip(np.array(names)[~decoded.good], decoded.bad, strict=True)] == [True] * 4
    assert decode_files(tmp_path, names[1:2], 3, 2).images.shape == (1, 3, 2, 2)
    assert decode_files(tmp_path, names[:1], 3, 2).images.shape == (0, 3, 2, 2)


def test_a_stamp_tells_when_files_change(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP))
    before = stamp(tmp_path, ["x.png"])
    assert stamp(tmp_path, ["x.png"]) == before
    saved(tmp_path, Image.fromarray(RAMP), "y.png")
    assert stamp(tmp_path, ["x.png", "y.png"]) != before
    path.write_bytes(path.read_bytes() + b"0")
    assert stamp(tmp_path, ["x.png"]) != before
    with pytest.raises(FileNotFoundError, match=r"2 files are missing in .*: a.png, b.png\. HINT"):
        stamp(tmp_path, ["x.png", "a.png", "b.png"])


@pytest.mark.parametrize("module", ["torch", "lightning"])
def test_helpers_start_without_heavy_imports(module):
    code = f"import sys, lpft.data.sources.image_files; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_resizing_keeps_what_fits_and_keeps_flat_areas():
    rgb = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(resize(rgb, 3, 8), rgb.transpose(0, 3, 1, 2))
    assert (resize(np.full((1, 5, 9, 1), 77, np.uint8), 3, 28) == 77).all()
    assert resize(rgb, 1, 4).shape == (3, 1, 4, 4)


def test_grey_is_pillows_luminance():
    rgb = np.random.default_rng(0).integers(256, size=(1, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(resize(rgb, 1, 8)[0, 0], np.asarray(Image.fromarray(rgb[0]).convert("L")))
