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
from PIL import Image, ImageOps

from tljax import console
from tljax import data as data_lib
from tljax.data import Unreadable, decode
from tljax.data.images import as_pixels, find_format
from tljax.data.pixels.depth import DEEP as WAYS
from tljax.errors import InputError


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """As in a new process: what is said once has not been said."""
    monkeypatch.setattr(console, "_said", set())


@pytest.fixture
def gradient() -> np.ndarray:
    """A smooth image without symmetry: uint8 (24, 32, 3)."""
    rows, columns = np.mgrid[0:24, 0:32]
    return np.stack([rows * 10, columns * 7, 120 + rows], axis=2).astype(np.uint8)


KINDS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "DIB", "JPEG2000", "AVIF"]


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


def tiff(width: int, bits: int, pixels: bytes, white_is_zero=False, is_thumbnail=False) -> bytes:
    """A grey TIFF of one row; Pillow does not write all kinds."""
    tags = {
        **{254: int(is_thumbnail), 256: width, 257: 1, 258: bits, 259: 1},
        **{262: int(not white_is_zero), 273: 8, 277: 1, 278: 1, 279: len(pixels)},
    }
    pixels += b"\0" * (len(pixels) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("DIB", {}, 0),
        ("JPEG2000", {"irreversible": False}, 0),
        ("JPEG2000", {"no_jp2": True}, 0),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
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


@pytest.mark.parametrize("save_all", [False, True])
def test_gif(gradient, save_all):
    """A GIF has at most 256 colours; of an animation the first frame is taken."""
    image = Image.fromarray(gradient).quantize(256)
    frames = {"save_all": True, "append_images": [image.rotate(90)]} if save_all else {}
    pixels = decode(encoded(image, "GIF", **frames))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_a_gif_that_is_transparent_is_blended_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    pixels = decode(encoded(image, "GIF", transparency=1))
    np.testing.assert_array_equal(pixels[0], [[10, 20, 30], [255, 255, 255]])


def test_portable_maps_as_text_and_with_comments():
    np.testing.assert_array_equal(decode(b"P2\n# by hand\n2 1\n10\n0 10\n")[0, :, 0], [0, 255])
    np.testing.assert_array_equal(decode(b"P1 2 1 0 1")[0, :, 0], [255, 0])


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


def test_of_transparent_images_it_is_said_what_becomes_of_them(caplog):
    opaque, drawn = Image.new("RGBA", (2, 1), "white"), Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    drawn.putpixel((0, 0), (255, 0, 0, 255))
    empty, white = Image.new("RGBA", (2, 1), (0, 0, 0, 0)), drawn.copy()
    white.putpixel((0, 0), (255, 255, 255, 128))
    for name, image in {"opaque": opaque, "drawn": drawn, "empty": empty, "white": white}.items():
        decode(encoded(image, "PNG"), name)
    assert caplog.messages == [
        "of images with transparent pixels, e.g. drawn, these are blended over white",
        "nothing is left of images that are white on transparent, or transparent throughout, e.g."
        " white; blend such images over a dark colour first, or remove their transparency",
    ]


def test_a_picture_that_is_transparent_throughout_is_warned_of(caplog):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 0))
    assert (decode(encoded(image, "PNG"), "unused alpha") == 255).all()
    assert "transparent throughout, e.g. unused alpha" in caplog.messages[-1]


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


def test_sixteen_bit_colour_keeps_the_high_byte(caplog):
    rows = b"\0" + struct.pack(">6H", 0, 0x1234, 0xFFFF, 0x8000, 0x00FF, 0x0100)
    for deep in WAYS:
        pixels = decode(png(2, 1, 16, 2, rows), "x.png", deep)
        np.testing.assert_array_equal(pixels, [[[0, 0x12, 0xFF], [0x80, 0, 1]]])
    assert caplog.messages == [
        "of colour images with 16 bits a channel, e.g. x.png, the upper 8 bits are used"
    ]


DEEP = np.array([[100, 1000, 4000]], np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_deep_grey_is_scaled_by_its_own_range_on_request_and_else_it_is_said(kind, caplog):
    data = encoded(Image.fromarray(DEEP), kind)
    np.testing.assert_array_equal(decode(data, deep="own_range")[0, :, 0], [0, 59, 255])
    assert not caplog.messages
    for name in ("one.x", "two.x"):
        np.testing.assert_array_equal(decode(data, name)[0, :, 2], [0, 4, 16])
    assert caplog.messages == [
        "of grey images with more than 8 bits, e.g. one.x, the range from 0 to 65,535 is scaled to"
        " 8 bits; set deep_images to own_range to scale each image by its own smallest and largest"
        " pixel"
    ]


@pytest.mark.parametrize(
    ("data", "full", "own"),
    [
        (tiff(2, 12, b"\x40\x0f\xff"), [64, 255], [0, 255]),  # 1024, 4095
        (tiff(2, 16, b"\0\x40\xff\xff"), [64, 255], [0, 255]),  # 16384, 65535
        (tiff(2, 16, b"\0\x40\xff\xff", white_is_zero=True), [191, 0], [255, 0]),
        (tiff(2, 16, b"\0\x40\0\x40"), [64, 64], [0, 0]),
    ],
)
def test_tiffs_of_other_depths(data, full, own):
    np.testing.assert_array_equal(decode(data)[0, :, 0], full)
    np.testing.assert_array_equal(decode(data, deep="own_range")[0, :, 0], own)


@pytest.mark.parametrize(
    ("values", "what", "own"),
    [
        (np.float32([[-1, 0, 1]]), "floats", [0, 128, 255]),
        (np.float32([[np.nan, -np.inf, 1, 3, np.inf]]), "floats", [0, 0, 0, 255, 255]),
        (np.float32([[np.nan]]), "floats", [0]),
        (np.int32([[0, 35_000, 70_000]]), "numbers beyond 16 bits", [0, 128, 255]),
        (np.int32([[-1, 0]]), "numbers beyond 16 bits", [0, 255]),
    ],
)
def test_pixels_without_a_fixed_range_are_refused_unless_scaled_by_their_own(values, what, own):
    data = encoded(Image.fromarray(values), "TIFF")
    with says(
        f"cannot read image x.tif: its pixels are {what}; convert it to 8 bits, or set deep_images"
        " to own_range"
    ):
        decode(data, "x.tif")
    np.testing.assert_array_equal(decode(data, deep="own_range")[0, :, 0], own)


def test_a_cameras_raw_file_is_not_its_thumbnail():
    with says(
        "cannot read image x.dng: its first image is a thumbnail; convert it to a JPEG or PNG file"
    ):
        decode(tiff(2, 8, b"\0\1", is_thumbnail=True), "x.dng")


def test_cmyk(gradient):
    """Values are stored inverted, as Adobe's programs do, with or without Adobe's marker."""
    cmyk = Image.fromarray(gradient).convert("CMYK")
    marked = encoded(cmyk, "JPEG", quality=95, subsampling=0)
    unmarked = re.sub(rb"\xff\xee\x00\x0eAdobe.{7}", b"", marked, flags=re.DOTALL)
    assert len(unmarked) == len(marked) - 16
    for jpeg in (marked, unmarked):
        assert np.abs(decode(jpeg).astype(int) - gradient).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_it_is_said(gradient, kind, caplog):
    frames = [Image.fromarray(np.roll(gradient, i, axis=1)) for i in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    animated = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(animated)) as image:
        assert image.n_frames == 3
    for name in ("one", "two"):
        np.testing.assert_array_equal(decode(animated, name), gradient)
    assert caplog.messages == [
        "of images with several frames or pages, e.g. one, the first is used"
    ]


def test_the_preview_in_a_jpeg_is_not_worth_a_word(gradient, caplog):
    image = Image.fromarray(gradient)
    decode(encoded(image, "MPO", save_all=True, append_images=[image.resize((8, 6))]))
    assert not caplog.messages


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_extreme_shapes(shape, kind):
    assert decode(encoded(Image.new("RGB", shape[::-1]), kind)).shape == (*shape, 3)


@pytest.mark.parametrize("kind", KINDS)
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


def photograph(upright: np.ndarray, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    return encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(gradient, orientation, kind):
    np.testing.assert_array_equal(decode(photograph(gradient, orientation, kind)), gradient)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied_to_pillow_images(gradient, orientation, kind):
    image = Image.open(io.BytesIO(photograph(gradient, orientation, kind)))
    upright = ImageOps.exif_transpose(image)
    forms = [[(image, 0)] * 3, [[image, 0], [image, 0]], ([image] * 3, [0] * 3), [(upright, 0)] * 2]
    for given in forms:
        np.testing.assert_array_equal(data_lib.as_source(given)[1]["image"], gradient)


def test_deep_and_damaged_pillow_images(gradient, caplog):
    np.testing.assert_array_equal(as_pixels(Image.fromarray(DEEP))[0, :, 1], [0, 4, 16])
    assert "e.g. 3x1, from Pillow, the range from 0 to 65,535" in caplog.text
    assert "convert them to 8 bits beforehand" in caplog.text
    with pytest.raises(
        Unreadable, match=r"3x1, from Pillow: its pixels are floats; convert it to 8 bits$"
    ):
        as_pixels(Image.fromarray(DEEP.astype(np.float32)))
    cut = io.BytesIO(encoded(Image.fromarray(gradient), "PNG")[:-30])
    with pytest.raises(Unreadable, match="32x24, from Pillow: its file is damaged; replace"):
        as_pixels(Image.open(cut))


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
        f"cannot read image {path}: it is truncated or not a JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, "
        "JPEG 2000 or AVIF file; replace or delete it"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a TIFF's tags
@pytest.mark.parametrize("kind", KINDS)
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
@pytest.mark.parametrize("kind", KINDS)
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
    "text that begins like a map": lambda _: b"P1 and P2 were ill",
    "text that begins like a bitmap": lambda _: b"BMW and other makers of cars",
    "program of PostScript": lambda image: encoded(image, "EPS"),
    "pdf": lambda image: encoded(image, "PDF"),
    "heic": lambda _: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "heic that begins like avif": lambda _: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99),
    "a camera's raw file": lambda _: b"II*\0\x10\0\0\0CR\2\0" + bytes(99),
    "ico": lambda image: encoded(image, "ICO"),
    "tga": lambda image: encoded(image, "TGA"),
    "no columns": lambda _: png(0, 5, 8, 2, b"\0" * 5),
    "no rows": lambda _: png(5, 0, 8, 2, b""),
    "bitmap without columns": lambda image: encoded(image, "BMP").replace(
        struct.pack("<ii", 32, 24), struct.pack("<ii", 0, 24)
    ),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_not_an_image(tmp_path, gradient, kind):
    """The format is detected from the content, not from the name."""
    path = tmp_path / "diary.png"
    path.write_bytes(NO_IMAGES[kind](Image.fromarray(gradient)))
    is_damaged = kind in ("no columns", "no rows", "bitmap without columns")
    assert (find_format(path.read_bytes()[:64]) is not None) == is_damaged
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


def test_as_pixels_takes_arrays_and_pillow_images(gradient):
    assert as_pixels(gradient) is gradient
    np.testing.assert_array_equal(as_pixels(Image.fromarray(gradient)), gradient)
    grey = gradient[:, :, 0]
    for array in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(as_pixels(array), np.stack([grey] * 3, axis=2))


def test_as_pixels_refuses_floats_and_other_shapes(gradient):
    with pytest.raises(InputError, match="dtype float32, but uint8 RGB"):
        as_pixels(gradient.astype(np.float32))
    with pytest.raises(InputError, match=r"shape \(24, 32, 4\)"):
        as_pixels(np.zeros((24, 32, 4), np.uint8))
