"""Decoding: the right RGB for every format and mode, one sentence for every damaged file."""

import contextlib
import io
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image

from tljax.data import Unreadable, decode
from tljax.data.images import as_rgb
from tljax.errors import InputError


@pytest.fixture
def gradient() -> np.ndarray:
    """A smooth image without symmetry: uint8 (24, 32, 3)."""
    rows, columns = np.mgrid[0:24, 0:32]
    return np.stack([rows * 10, columns * 7, 120 + rows], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any kind; Pillow does not write all kinds."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


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


def test_sixteen_bit_colour_keeps_the_high_byte():
    rows = b"\0" + struct.pack(">6H", 0, 0x1234, 0xFFFF, 0x8000, 0x00FF, 0x0100)
    np.testing.assert_array_equal(decode(png(2, 1, 16, 2, rows)), [[[0, 0x12, 0xFF], [0x80, 0, 1]]])


def test_cmyk(gradient):
    """Values are stored inverted, as Adobe's programs do, with or without Adobe's marker."""
    cmyk = Image.fromarray(gradient).convert("CMYK")
    marked = encoded(cmyk, "JPEG", quality=95, subsampling=0)
    unmarked = re.sub(rb"\xff\xee\x00\x0eAdobe.{7}", b"", marked, flags=re.DOTALL)
    assert len(unmarked) == len(marked) - 16
    for jpeg in (marked, unmarked):
        assert np.abs(decode(jpeg).astype(int) - gradient).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(gradient, kind):
    frames = [Image.fromarray(np.roll(gradient, i, axis=1)) for i in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    animated = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(animated)) as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(decode(animated), gradient)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_extreme_shapes(shape, kind):
    assert decode(encoded(Image.new("RGB", shape[::-1]), kind)).shape == (*shape, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_what_follows_an_image_does_not_matter(gradient, kind):
    data = encoded(Image.fromarray(gradient), kind)
    np.testing.assert_array_equal(decode(data + b"\0garbage" * 99), decode(data))


# How a camera stores an upright picture in each orientation.
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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_turns_nothing_or_is_refused(gradient, kind):
    upright = Image.fromarray(gradient)
    exif = Image.Exif()
    exif[0x0112] = 1
    exif[0x010F] = "maker"
    whole = exif.tobytes()
    plain = decode(encoded(upright, kind))
    for i in range(len(whole)):
        for broken in (whole[:i], whole[:i] + b"\xff" + whole[i + 1 :]):
            try:
                pixels = decode(encoded(upright, kind, exif=broken))
            except Unreadable:
                continue
            np.testing.assert_array_equal(pixels, plain)


def says(sentence: str):
    return pytest.raises(Unreadable, match=f"^{re.escape(sentence)}$")


def damage(path) -> str:
    return (
        f"cannot read image {path}: it is truncated or not a JPEG, PNG, WebP or BMP file; "
        "replace or delete it"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated(tmp_path, gradient, kind):
    path = tmp_path / f"cut.{kind.lower()}"
    data = encoded(Image.fromarray(gradient), kind)
    whole = decode(data)
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        if length > len(data) - 20:  # the missing bytes may not be pixels
            with contextlib.suppress(Unreadable):
                np.testing.assert_array_equal(decode(path), whole)
        else:
            with says(damage(path)):
                decode(path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_changed_bytes_give_an_image_or_one_error(gradient, kind):
    data = encoded(Image.fromarray(gradient), kind)
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 200), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        try:
            pixels = decode(bytes(changed))
        except Unreadable:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)


NO_IMAGES = {
    "text": lambda _: b"dear diary",
    "web page": lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "empty": lambda _: b"",
    "zeros": lambda _: bytes(1000),
    "zip": lambda _: b"PK\x03\x04" + bytes(500),
    "gif": lambda image: encoded(image, "GIF"),
    "float tiff": lambda image: encoded(image.convert("F"), "TIFF"),
    "no columns": lambda _: png(0, 5, 8, 2, b"\0" * 5),
    "no rows": lambda _: png(5, 0, 8, 2, b""),
    "bitmap without columns": lambda image: encoded(image, "BMP").replace(
        struct.pack("<ii", 32, 24), struct.pack("<ii", 0, 24)
    ),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_not_an_image(tmp_path, gradient, kind):
    """The format is detected from the content, not from the name; a GIF is refused too."""
    path = tmp_path / "diary.png"
    path.write_bytes(NO_IMAGES[kind](Image.fromarray(gradient)))
    with says(damage(path)):
        decode(path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with says(
        f"cannot read image {path}: it is not a file; remove it or give the files in it"
    ) as raised:
        decode(path)
    assert raised.value.name == str(path)


def test_the_error_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(Unreadable("a\udcff.jpg", "it is {0}; mend it")))
    assert isinstance(error, Unreadable)
    assert error.name == "a\udcff.jpg"
    assert str(error) == "cannot read image a\udcff.jpg: it is {0}; mend it"


def test_missing_file(tmp_path):
    with says(
        f"cannot read image {tmp_path / 'none.png'}: No such file or directory; check the path and "
        "its permissions"
    ):
        decode(tmp_path / "none.png")
    with pytest.raises(Unreadable, match="embedded null byte; check the path"):
        decode("a\0b.png")


def test_damage_costs_neither_memory_nor_warnings(tmp_path, gradient):
    """Runs in its own process, to see its output and its peak memory."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    for i in range(20):
        broken = exif.tobytes()[: 9 + i]
        image = encoded(Image.fromarray(gradient), "JPEG", exif=broken)
        (tmp_path / f"exif{i}.jpg").write_bytes(image)
        # pixel counts at which Pillow raises, warns, and accepts
        for name, side in {"bomb": 50_000 + i, "big": 10_000 + i, "cut": 9_000 + i}.items():
            (tmp_path / f"{name}{i}.png").write_bytes(png(side, side, 8, 6, b"\0" * 1000))
    script = """
        import resource, sys
        from pathlib import Path
        from tljax.data import Unreadable, decode
        read, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in Path(sys.argv[1]).iterdir():
            try:
                decode(path)
                read += 1
            except Unreadable:
                pass
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(read, "images", "little" if kib < 200_000 else kib)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert re.fullmatch(r"\d+ images little\n", done.stdout)


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
