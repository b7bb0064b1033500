"""Small valid files of every format that is read; what a fuzzer begins with."""

import io

import h5py
import numpy as np
from PIL import Image, PngImagePlugin
from safetensors.numpy import save


def images() -> list[bytes]:
    """PNG, JPEG, WebP and BMP in all the modes they have."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    deep = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 40, zip=True)
    return [
        *(_encoded(image, "PNG") for image in (rgba, rgb, grey, palette, deep, rgb.convert("1"))),
        *(_encoded(image, "PNG") for image in (rgba.convert("LA"), grey)),
        _encoded(palette, "PNG", transparency=3),
        _encoded(rgb, "PNG", exif=exif, pnginfo=text),
        _encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        *(_encoded(image, "JPEG") for image in (rgb, grey, rgb.convert("CMYK"))),
        _encoded(rgb, "JPEG", progressive=True, exif=exif),
        _encoded(rgba, "WEBP", lossless=True),
        _encoded(rgb, "WEBP", quality=50, exif=exif),
        _encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        *(_encoded(image, "BMP") for image in (rgb, grey, palette, rgb.convert("1"), rgba)),
    ]


def checkpoints() -> dict[str, list[bytes]]:
    """Files by suffix."""
    tensors = {
        "conv1.weight": np.ones((2, 3, 2, 2), np.float32),
        "bn1.running_mean": np.arange(2, dtype=np.float64),
        "bn1.num_batches_tracked": np.array(3),
    }
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    return {
        ".safetensors": [save(tensors), save(half, {"format": "pt", "model": "resnet18"})],
        ".npz": [_npz(np.savez, tensors), _npz(np.savez_compressed, half)],
        ".h5": [_hdf5(tensors), _hdf5(half, compression="gzip", chunks=True)],
    }


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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
