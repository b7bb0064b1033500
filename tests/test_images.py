"""Decoding: every format and mode to the right RGB, every damaged file to one sentence."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tljax.data import decode
from tljax.data.images import as_rgb
from tljax.errors import InputError


@pytest.fixture
def gradient() -> np.ndarray:
    """A smooth picture without symmetry: uint8 (24, 32, 3)."""
    rows, columns = np.mgrid[0:24, 0:32]
    return np.stack([rows * 10, columns * 7, 120 + rows], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
    ],
)
def test_every_format_from_a_path_and_from_bytes(tmp_path, gradient, kind, options, tolerance):
    data = encoded(Image.fromarray(gradient), kind, **options)
    path = tmp_path / "image"
    path.write_bytes(data)
    pixels = decode(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape == gradient.shape
    assert np.abs(pixels.astype(int) - gradient).max() <= tolerance
    np.testing.assert_array_equal(decode(data), pixels)
    np.testing.assert_array_equal(decode(str(path)), pixels)


def test_grey_is_repeated(gradient):
    grey = Image.fromarray(gradient).convert("L")
    pixels = decode(encoded(grey, "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))


def test_one_bit_is_black_and_white():
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(decode(encoded(bits, "PNG"))[:, :, 0], np.eye(8) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_blended_over_white(mode):
    colour = (0, 0, 0) if mode == "RGBA" else (0,)
    image = Image.new(mode, (3, 1), (*colour, 255))
    image.putpixel((1, 0), (*colour, 0))
    image.putpixel((2, 0), (*colour, 51))
    np.testing.assert_array_equal(decode(encoded(image, "PNG"))[0, :, 0], [0, 255, 204])


def test_palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    plain = decode(encoded(image, "PNG"))
    np.testing.assert_array_equal(plain[0], [[10, 20, 30], [200, 100, 50]])
    transparent = decode(encoded(image, "PNG", transparency=1))
    np.testing.assert_array_equal(transparent[0], [[10, 20, 30], [255, 255, 255]])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(pixels[0, :, 1], [0, 1, 128, 255])


def test_cmyk(gradient):
    cmyk = Image.fromarray(gradient).convert("CMYK")
    pixels = decode(encoded(cmyk, "JPEG", quality=95, subsampling=0))
    assert np.abs(pixels.astype(int) - gradient).mean() < 4


# How a camera held in each orientation stores an upright picture.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(gradient, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](gradient)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encoded(stored, "PNG", exif=exif)), gradient)


def says(sentence: str):
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def damage(path) -> str:
    return (
        f"cannot read image {path}: it is truncated or not a JPEG, PNG, WebP or BMP file; "
        "replace or delete it"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.05, 0.75])
def test_truncated(tmp_path, gradient, kind, share):
    path = tmp_path / f"cut.{kind.lower()}"
    data = encoded(Image.fromarray(gradient), kind)
    path.write_bytes(data[: int(len(data) * share)])
    with says(damage(path)):
        decode(path)


@pytest.mark.parametrize("kind", ["text", "empty", "gif"])
def test_not_an_image(tmp_path, gradient, kind):
    path = tmp_path / "diary.png"
    gif = encoded(Image.fromarray(gradient), "GIF")
    path.write_bytes({"text": b"dear diary", "empty": b"", "gif": gif}[kind])
    with says(damage(path)):
        decode(path)


def test_missing_file(tmp_path):
    with says(
        f"cannot read image {tmp_path / 'none.png'}: No such file or directory; check the path and "
        "its permissions"
    ):
        decode(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [500, 100])  # Pillow warns above the limit, raises above twice it
def test_decompression_bomb(monkeypatch, gradient, limit):
    data = encoded(Image.fromarray(gradient), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=f"it has more than {limit} pixels; shrink or delete it"):
        decode(data)


def test_as_rgb_takes_arrays_and_pillow_images(gradient):
    assert as_rgb(gradient) is gradient
    np.testing.assert_array_equal(as_rgb(Image.fromarray(gradient)), gradient)
    grey = gradient[:, :, 0]
    for array in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(as_rgb(array), np.stack([grey] * 3, axis=2))


def test_as_rgb_refuses_floats_and_other_shapes(gradient):
    with pytest.raises(InputError, match="dtype float32, but uint8 RGB"):
        as_rgb(gradient.astype(np.float32))
    with pytest.raises(InputError, match=r"shape \(24, 32, 4\)"):
        as_rgb(np.zeros((24, 32, 4), np.uint8))
