"""Small valid files of every format that is read: the seed corpus of the fuzzer."""

import io
import json
import struct
import zlib

import h5py
import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from safetensors.numpy import save

from tests.reference_weights import draw_all
from tljax.config import base
from tljax.models import create
from tljax.weights.families import TORCH_RESNET
from tljax.weights.rules import unconvert

_ROTATED = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
_WIDTH, _HEIGHT = 7, 9


def of(target: str) -> list[bytes]:
    """The valid files for a target of `tests.fuzz.targets`."""
    if target == "image":
        return images()
    of_tables = {"table": tables, "choices": tables_with_choices}
    if target in of_tables:
        return of_tables[target]()
    return {**weights_files(), **json_files()}[target]


TABLE_IMAGES = tuple(f"{number}.png" for number in range(12))


def tables() -> list[bytes]:
    """Tables of `TABLE_IMAGES`, with each delimiter, with and without the optional columns."""
    rows = [
        (name, "cd"[n % 2], ("train", "test")[n // 10], n // 2)
        for n, name in enumerate(TABLE_IMAGES)
    ]
    found = []
    for width, delimiter in ((2, ","), (3, ";"), (4, "\t"), (4, ",")):
        header = ("path", "label", "split", "group")[:width]
        lines = [delimiter.join(map(str, row[:width])) for row in (header, *rows)]
        found.append(("\r\n" if width == 3 else "\n").join(lines).encode())
    quoted = "\n".join(f'"{name}","a ""b"", {label}"' for name, label, *_ in rows)
    return [*found, b"\xef\xbb\xbfimage,class\n" + quoted.encode()]


def tables_with_choices() -> list[bytes]:
    """Tables of `TABLE_IMAGES` below a line of choices: several labels, numbers and weights."""
    header = ("path", "tags", "young", "wild", "age", "weight", "split", "group")
    rows = []
    for n, name in enumerate(TABLE_IMAGES):
        young, wild, split = n % 2, ("no", "yes")[n // 2 % 2], ("train", "val", "test")[n // 3 % 3]
        tags = ("", "a", "b", "a;b")[n % 4]
        rows.append((name, tags, young, wild, n / 7, n + 0.5, split, f"g{n // 3}"))

    def written(choices: str, lines: list[tuple], width: int, quote: str = "") -> bytes:
        cells = [",".join(f"{quote}{cell}{quote}" for cell in line[:width]) for line in lines]
        return "\n".join([choices, *cells]).encode()

    whole = [header, *rows]
    return [
        *(written(f"labels={labels}", whole, 4) for labels in ("tags", "tags,separator=;")),
        *(written(f"labels={labels}", whole, 6, '"') for labels in ("young+wild", "young")),
        *(written(f"numbers={numbers}", whole, 8) for numbers in ("age", "age+young")),
        written("numbers=weight", whole, 6),
        written("label=wild,weight=age,split=split", [header, *rows[1:]], 8),
        written("columns=path+_+_+_+age,numbers=age", rows, 5),
        written("columns=path+tags+_,labels=tags,separator=semicolon", rows, 3),
        written("columns=path+_+a+b+_+weight,labels=a+b", rows, 6),
    ]


def images() -> list[bytes]:
    """All formats in all their modes."""
    noise = np.random.default_rng(0).integers(0, 256, (_HEIGHT, _WIDTH, 4), np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette, turned = rgb.quantize(16), rgb.rotate(90)
    deep = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0comment"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 40, zip=True)
    text.add_itxt("XML:com.adobe.xmp", _ROTATED, zip=True)
    moving = {"save_all": True, "append_images": [turned]}
    return [
        *(_encoded(image, "PNG") for image in (rgba, rgb, grey, palette, deep, rgb.convert("1"))),
        _encoded(rgba.convert("LA"), "PNG"),
        _encoded(palette, "PNG", transparency=3),
        _encoded(palette, "PNG", transparency=bytes(range(16))),
        _encoded(rgb, "PNG", transparency=(1, 2, 3)),
        _encoded(grey, "PNG", transparency=7),
        _encoded(rgb, "PNG", exif=exif),
        _encoded(rgb, "PNG", pnginfo=text, icc_profile=profile, dpi=(72, 72)),
        _encoded(rgb, "PNG", **moving),
        *(_png(depth, colour, False) for depth, colour in ((16, 2), (16, 4), (16, 6), (2, 0))),
        *(_png(depth, colour, True) for depth, colour in ((8, 2), (16, 0), (1, 0), (8, 6))),
        *(_encoded(image, "JPEG") for image in (rgb, grey, rgb.convert("CMYK"))),
        _encoded(rgb.convert("CMYK"), "JPEG", keep_rgb=True, quality=20),
        _encoded(rgb, "JPEG", progressive=True, exif=exif, comment=b"comment"),
        _encoded(rgb, "JPEG", subsampling=2, restart_marker_blocks=1, dpi=(72, 72)),
        _encoded(rgb, "JPEG", xmp=_ROTATED.encode(), icc_profile=profile),
        _encoded(rgb, "MPO", **moving),  # a JPEG as phones write it, with a second image
        _encoded(rgba, "WEBP", lossless=True),
        _encoded(rgb, "WEBP", quality=50, exif=exif, icc_profile=profile),
        _encoded(rgba, "WEBP", quality=50, xmp=_ROTATED.encode()),
        _encoded(rgb, "WEBP", **moving),
        *(_encoded(image, "BMP") for image in (rgb, grey, palette, rgb.convert("1"), rgba)),
        *_bitmaps(),
        *_others(rgba, deep, exif),
    ]


def _others(rgba: Image.Image, deep: Image.Image, exif: Image.Exif) -> list[bytes]:
    """TIFF, GIF, PPM, JPEG 2000, AVIF, and bitmaps without the file's header."""
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    moving = {"save_all": True, "append_images": [rgb.rotate(90)]}
    packings = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return [
        *(_encoded(image, "TIFF") for image in (rgba, rgb, grey, palette, deep)),
        *(_encoded(rgb.convert(mode), "TIFF") for mode in ("1", "CMYK", "LA", "YCbCr", "LAB")),
        *(_encoded(grey.convert(mode), "TIFF") for mode in ("I", "F")),
        *(_encoded(rgb, "TIFF", compression=packing, exif=exif) for packing in packings),
        _encoded(rgb.convert("1"), "TIFF", compression="group4"),
        _encoded(rgb, "TIFF", big_tiff=True, **moving),
        *(_encoded(image, "GIF") for image in (palette, grey, rgba)),
        _encoded(palette, "GIF", transparency=3, interlace=1),
        _encoded(palette, "GIF", **moving, duration=50, disposal=2, comment=b"comment"),
        *(_encoded(image, "PPM") for image in (rgb, grey, deep, rgb.convert("1"))),
        *(b"P3 # text\n2 1\n255\n1 2 3 4 5 6\n", b"P2\n2 1 1000 0 999\n", b"P1\n3 1\n101\n"),
        b"P6 2 1 1023 " + bytes(range(12)),
        *(_encoded(image, "DIB") for image in (rgb, palette)),
        *(_encoded(image, "JPEG2000") for image in (rgba, rgb, grey, deep)),
        _encoded(rgb, "JPEG2000", no_jp2=True, irreversible=True, num_resolutions=2),
        _encoded(rgb, "JPEG2000", tile_size=(8, 8), quality_layers=[20, 10]),
        *(_encoded(image, "AVIF", speed=10) for image in (rgba, rgb, grey)),
        _encoded(rgb, "AVIF", speed=10, quality=30, exif=exif),
        _encoded(rgb, "AVIF", speed=10, **moving),
    ]


def weights_files() -> dict[str, list[bytes]]:
    """Files by suffix."""
    tensors = {
        "conv1.weight": np.ones((2, 3, 2, 2), np.float32),
        "bn1.running_mean": np.arange(2, dtype=np.float64),
        "bn1.num_batches_tracked": np.array(3),
    }
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    ours = {"format": "tljax", "model": "resnet10_32", "preprocessing": json.dumps(_OURS)}
    return {
        ".safetensors": [
            *(save(tensors), save(half, {"format": "pt", "model": "resnet18"})),
            save({"head/bias": np.zeros(0, np.int8)}, ours),
        ],
        ".npz": [
            *(_npz(np.savez, tensors), _npz(np.savez_compressed, half)),
            _npz(np.savez, {"a": np.asfortranarray(tensors["conv1.weight"][0, 0])}),
        ],
        ".h5": [
            *(_hdf5(tensors), _hdf5(half, compression="gzip", chunks=True)),
            _hdf5(half, chunks=True, shuffle=True, fletcher32=True, maxshape=None),
            *(_keras(tensors), _keras(tensors, libver="latest")),
        ],
    }


def json_files() -> dict[str, list[bytes]]:
    """JSON files that accompany weights or are in a workdir, by target."""
    rows = [
        {"event": "train", "step": 2, "loss": 0.5, "lr": {"head": 0.1}},
        {"event": "eval", "step": 4, "split": "val", "accuracy": 0.5, "per_class": [0.5, 0.5]},
        {"event": "end", "step": 10},
    ]
    config = base().to_dict()
    return {
        "preprocessing": [json.dumps(value).encode() for value in (_OURS, _TIMM, _TRANSFORMERS)],
        "names": [json.dumps(value).encode() for value in _names()],
        "index": [
            json.dumps({"weight_map": {"a": "model-1.safetensors", "b": last}}).encode()
            for last in ("model-1.safetensors", "model-2.safetensors")
        ],
        "metrics": ["".join(json.dumps(row) + "\n" for row in rows).encode()],
        "config": [json.dumps(config, indent=2).encode(), json.dumps(config).encode()],
    }


_OURS = {
    "image_size": [32, 40],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "crop_ratio": 0.875,
}
_TIMM = {
    "pretrained_cfg": {
        **{"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 32, 32]},
        **{"interpolation": "bilinear", "crop_pct": 0.9},
    }
}
_TRANSFORMERS = {
    **{"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"shortest_edge": 40}},
    **{"crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "resample": 2},
    "crop_pct": 0.9,
}


def _names() -> list[dict[str, list[int]]]:
    """{name: shape} of files with a small ResNet, wrapped, with another network and old heads."""
    model = create("resnet10_32", 5)
    shapes = {
        name: list(tensor.shape)
        for name, tensor in unconvert(TORCH_RESNET, model, draw_all(model, 32)).items()
    }
    wrapped = {f"module.{name}": shape for name, shape in shapes.items() if name[:3] != "fc."}
    one_of_two = {f"ema.{name}": shape for name, shape in shapes.items() if "layer4" not in name}
    heads = {"module.fc.0.weight": [9, 128], "head.weight": [5, 9], "t": [], "queue": [4, 128]}
    return [shapes, wrapped | heads, wrapped | one_of_two]


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(depth: int, colour: int, interlaced: bool) -> bytes:
    """A PNG of a kind that Pillow does not write."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first column, first row, strides
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for x, y, dx, dy in passes:
        width, height = -(-(_WIDTH - x) // dx), -(-(_HEIGHT - y) // dy)
        if width > 0 and height > 0:
            stride = 1 + (width * channels * depth + 7) // 8
            rows += b"".join(bytes([1]) + bytes(range(1, stride)) for _ in range(height))
    header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _bitmaps() -> list[bytes]:
    """BMPs that Pillow does not write: OS/2, top-down, bit fields, run-length encoded."""

    def bitmap(head: bytes, pixels: bytes) -> bytes:
        start = 14 + len(head)
        return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels

    def info(bits: int, packing: int, height: int, size: int = 40, colours: int = 0) -> bytes:
        fields = (size, _WIDTH, height, 1, bits, packing, 0, 2835, 2835, colours, 0)
        return struct.pack("<IiiHHIIiiII", *fields)

    palette = bytes(range(64))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    runs = b"".join(b"\x07\x03\0\0" for _ in range(_HEIGHT)) + b"\0\1"
    literal = b"\0\x07\1\2\3\4\5\6\7\0\0\0\0\2\1\1\6\4\0\0" + runs
    return [
        bitmap(struct.pack("<IHHHH", 12, _WIDTH, _HEIGHT, 1, 24), bytes(24 * _HEIGHT)),
        bitmap(info(24, 0, -_HEIGHT), bytes(24 * _HEIGHT)),
        bitmap(info(16, 3, _HEIGHT) + masks, bytes(16 * _HEIGHT)),
        bitmap(info(16, 0, _HEIGHT), bytes(16 * _HEIGHT)),
        bitmap(
            info(32, 3, _HEIGHT, 108)
            + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF << 24)
            + bytes(52),
            bytes(4 * _WIDTH * _HEIGHT),
        ),
        bitmap(info(8, 1, _HEIGHT, colours=16) + palette, runs),
        bitmap(info(8, 1, _HEIGHT, colours=16) + palette, literal),
        bitmap(info(4, 2, _HEIGHT, colours=16) + palette, runs),
        bitmap(info(4, 0, _HEIGHT, colours=16) + palette, bytes(4 * _HEIGHT)),
    ]


def _npz(save_arrays, tensors: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    save_arrays(buffer, **tensors)
    return buffer.getvalue()


def _hdf5(tensors: dict[str, np.ndarray], **options) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, tensor in tensors.items():
            group = file.create_group(f"layers/{name.split('.')[0]}", track_order=True)
            group.attrs["weight_names"] = [name]
            group.create_dataset(name, data=tensor, **(options if tensor.ndim else {}))
            file.move(f"layers/{name.split('.')[0]}", name.replace(".", "_"))
    return buffer.getvalue()


def _keras(tensors: dict[str, np.ndarray], **options) -> bytes:
    """A file like `.weights.h5`: numbered variables, and links to them under other names."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        for number, tensor in enumerate(tensors.values()):
            file[f"layers/conv_{number}/vars/0"] = tensor
        file["again"] = file["layers/conv_0"]
        file["soft"] = h5py.SoftLink("/layers/conv_1/vars/0")
        file["layers"].attrs["note"] = "é"
    return buffer.getvalue()
