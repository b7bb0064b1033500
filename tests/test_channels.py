"""Images of 1, 2, 4 and more channels: what is read, and what a run makes of it."""

import importlib.util
import io
import json
import pickle
import re
import shlex
import shutil
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from safetensors.numpy import load_file

import tljax
from tests.bits import same
from tests.test_cli import run
from tests.test_docs import commands
from tests.test_images import encoded, tiff
from tests.test_tpu_vm import REPOSITORY
from tljax import config as config_lib
from tljax import console, experiment
from tljax import data as data_lib
from tljax.data import Preprocessing, as_source, decode, eval_batches, fingerprint, train_batches
from tljax.data.transforms import (
    AUGMENTATIONS,
    augmentation,
    random_resized_crop,
    resize_and_centre_crop,
)
from tljax.errors import InputError
from tljax.models import parameter_count, tracing
from tljax.runs.resume import best_variables
from tljax.weights.fitting import adapt_channels


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """As in a new process: what is said once has not been said."""
    monkeypatch.setattr(console, "_said", set())


def says(beginning, error=InputError):
    return pytest.raises(error, match=f"^{re.escape(beginning)}")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


GREY, GREY_ALPHA, RGB, RGBA = noise(6, 5), noise(6, 5, 2), noise(6, 5, 3), noise(6, 5, 4)


# --- what a file holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, GREY_ALPHA, RGB, RGBA])
def test_every_channel_is_read_as_it_is(pixels, kind):
    data = encoded(Image.fromarray(pixels), kind)
    wanted = pixels.reshape(6, 5, -1)
    np.testing.assert_array_equal(decode(data, channels=wanted.shape[2]), wanted)


def test_palettes_inks_and_transparent_colours():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    read = decode(encoded(palette, "PNG"), channels=3)
    np.testing.assert_array_equal(read[0], [[10, 20, 30], [200, 100, 50]])
    read = decode(encoded(palette, "PNG", transparency=1), channels=4)
    np.testing.assert_array_equal(read[0], [[10, 20, 30, 255], [200, 100, 50, 0]])
    grey = Image.fromarray(np.uint8([[0, 7, 9]]))
    read = decode(encoded(grey, "PNG", transparency=7), channels=2)
    np.testing.assert_array_equal(read[0], [[0, 255], [7, 0], [9, 255]])
    read = decode(encoded(Image.fromarray(np.array([[True, False]])), "PNG"), channels=1)
    np.testing.assert_array_equal(read[0], [[255], [0]])
    inks = Image.fromarray(RGB).convert("CMYK")
    assert decode(encoded(inks, "JPEG"), channels=3).shape == (6, 5, 3)


@pytest.mark.parametrize(
    ("pixels", "channels", "has"),
    [
        (GREY, 3, "1 channel (grey)"),
        (GREY_ALPHA, 1, "2 channels (grey and alpha)"),
        (RGB, 4, "3 channels (RGB)"),
        (RGBA, 3, "4 channels (RGBA)"),
    ],
)
def test_another_number_of_channels_is_an_error_that_says_what_there_is(pixels, channels, has):
    found = pixels.reshape(6, 5, -1).shape[2]
    with says(
        f"cannot read image x.png: it has {has}, but channels is {channels}; convert it, or set"
        f" channels to {found} if all images have that many"
    ):
        decode(encoded(Image.fromarray(pixels), "PNG"), "x.png", channels=channels)


# --- TIFF: pages, samples and depth ---------------------------------------------------------------


def stack(pages, **options):
    """A TIFF of several pages, by Pillow."""
    first, *others = (Image.fromarray(page) for page in pages)
    return encoded(first, "TIFF", save_all=True, append_images=others, **options)


def test_pages_are_channels():
    pages = [noise(6, 5, seed=seed) for seed in range(6)]
    np.testing.assert_array_equal(decode(stack(pages), channels=6), np.stack(pages, axis=2))
    np.testing.assert_array_equal(decode(stack([RGB, GREY]), channels=4)[..., :3], RGB)
    for channels, data, has in (
        (1, stack(pages), "6 channels (6 pages of 1)"),
        (3, stack([RGB, RGB]), "6 channels (2 pages of 3)"),
        (3, stack([RGB, GREY]), "4 channels (2 pages)"),
    ):
        with says(f"cannot read image x.tif: it has {has}, but channels is {channels}; convert"):
            decode(data, "x.tif", channels=channels)
    with says("cannot read image x.tif: its pages differ in size, e.g. 5x4 and 5x6; resize them"):
        decode(stack([GREY, GREY[:4]]), "x.tif", channels=2)


def with_smaller_copy(pixels, **options):
    """As microscopes and map makers write TIFFs: a page, and a smaller version of it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(pixels, metadata=None, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, metadata=None, **options)
    return buffer.getvalue()


def test_smaller_versions_of_a_page_are_no_channels():
    data = with_smaller_copy(GREY, photometric="minisblack")
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], GREY)
    bands = noise(6, 5, 5).astype(np.uint16) * 257
    data = with_smaller_copy(bands, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(decode(data, channels=5), bands // 257)


def test_each_channel_of_a_deep_stack_is_scaled_by_its_own_range(caplog):
    dim = np.array([[0, 2, 10]], np.uint16)
    bright = np.array([[20_000, 30_000, 60_000]], np.uint16)
    data = stack([dim, bright])
    own = decode(data, deep="own_range", channels=2)[0]
    np.testing.assert_array_equal(own, [[0, 0], [51, 64], [255, 255]])
    assert not caplog.messages
    for name in ("one.tif", "two.tif"):
        whole = decode(data, name, channels=2)[0]
        np.testing.assert_array_equal(whole, [[0, 78], [0, 117], [0, 233]])
    assert caplog.messages == [
        "of images with more than 8 bits a channel, e.g. one.tif, the range from 0 to 65,535 is"
        " scaled to 8 bits; set deep_images to own_range to scale each channel of each image by its"
        " own smallest and largest number"
    ]
    np.testing.assert_array_equal(decode(stack([dim]), deep="own_range", channels=1)[0, 1], [51])


SAMPLES = np.arange(4 * 3 * 7, dtype=np.uint16).reshape(4, 3, 7) * 700


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_many_samples_a_pixel_as_satellites_write_them(planar, compression):
    stored = SAMPLES if planar == "contig" else np.moveaxis(SAMPLES, 2, 0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, stored, photometric="minisblack", planarconfig=planar, compression=compression
    )
    read = decode(buffer.getvalue(), channels=7)
    np.testing.assert_array_equal(read, np.rint(SAMPLES / 257))
    own = decode(buffer.getvalue(), deep="own_range", channels=7)
    assert (own.min((0, 1)) == 0).all()
    assert (own.max((0, 1)) == 255).all()
    with says("cannot read image x.tif: it has 7 channels (one page), but channels is 4; convert"):
        decode(buffer.getvalue(), "x.tif", channels=4)


def written(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def test_samples_are_read_as_they_are_stored():
    """Pillow would drop bits, or the fourth channel, or divide the others by it."""
    deep = RGB.astype(np.uint16) * 10
    own = decode(written(deep, photometric="rgb"), deep="own_range", channels=3)
    assert (own.max((0, 1)) == 255).all()
    for extra in ("unspecified", "assocalpha", "unassalpha"):
        data = written(RGBA, photometric="rgb", extrasamples=[extra])
        np.testing.assert_array_equal(decode(data, channels=4), RGBA)
    floats = np.float32([[[-1, 5, np.nan], [1, 7, 3]]])
    data = written(floats, photometric="minisblack", planarconfig="contig")
    read = decode(data, deep="own_range", channels=3)
    np.testing.assert_array_equal(read[0], [[0, 0, 0], [255, 255, 0]])
    with says("cannot read image x.tif: its pixels are floats; convert it to 8 bits, or set deep"):
        decode(data, "x.tif", channels=3)


def test_an_image_is_upright_and_white_is_white():
    turned = {"extratags": [(274, "H", 1, 6, True)]}  # its first row is the right side
    for pixels in (noise(6, 5, 5), noise(6, 5, 4), noise(6, 5)):
        data = written(pixels, photometric="minisblack", planarconfig="contig", **turned)
        read = decode(data, channels=pixels.reshape(6, 5, -1).shape[2])
        np.testing.assert_array_equal(read, np.rot90(pixels.reshape(6, 5, -1), -1))
    deep = GREY.astype(np.uint16) * 257
    data = written(deep, photometric="miniswhite", **turned)
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], 255 - np.rot90(GREY, -1))
    np.testing.assert_array_equal(decode(data)[..., 1], 255 - np.rot90(GREY, -1))
    bands = np.stack([deep] * 5, axis=2)
    data = written(bands, photometric="miniswhite", planarconfig="contig")
    np.testing.assert_array_equal(decode(data, channels=5)[..., 3], 255 - GREY)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_what_cannot_be_read_of_a_tiff_is_said(monkeypatch):
    bands = written(noise(6, 5, 5), photometric="minisblack", planarconfig="contig")
    for data in (bands[: len(bands) - 40], b"II*\0" + bytes(60), stack([GREY] * 4)[:-90]):
        with says("cannot read image x.tif: it is truncated or not a JPEG"):
            decode(data, "x.tif", channels=5)
    volume = written(noise(4, 16, 16), photometric="minisblack", volumetric=True, tile=(16,) * 3)
    with says("cannot read image x.tif: a page of it has the axes ZYX; write one page for each"):
        decode(volume, "x.tif", channels=4)
    with says("cannot read image x.tif: its pixels are complex64 numbers; convert them to floats"):
        decode(written(np.ones((4, 4), np.complex64)), "x.tif", "own_range", channels=1)
    with says("cannot read image x.dng: its first image is a thumbnail; convert it"):
        decode(tiff(2, 8, b"\0\1", is_thumbnail=True), "x.dng", channels=1)
    lzw = bands.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 5))
    assert lzw != bands
    if importlib.util.find_spec("imagecodecs") is None:
        with says(
            "cannot read image x.tif: it is a TIFF with LZW compression, which needs a codec"
        ):
            decode(lzw, "x.tif", channels=5)
    monkeypatch.setitem(sys.modules, "tifffile", None)  # as where it is not installed
    with says(
        "cannot read image x.tif: it is a TIFF whose channels Pillow does not read as they are; pip"
        " install 'tljax[tiff]'"
    ):
        decode(bands, "x.tif", channels=5)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_stack_larger_than_pillows_limit_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    for pixels in (noise(6, 5, 5), GREY):
        data = written(pixels, photometric="minisblack", planarconfig="contig")
        with pytest.raises(data_lib.Unreadable, match="it has more than 29 pixels; shrink"):
            decode(data, channels=5)


# --- arrays and Pillow images ---------------------------------------------------------------------


def test_users_images_keep_their_channels():
    labels = [0, 1]
    grey = as_source((np.stack([GREY, GREY]), labels), 1)
    np.testing.assert_array_equal(grey[1]["image"], GREY[:, :, None])
    four = as_source((np.stack([RGBA, RGBA]), labels), 4)
    np.testing.assert_array_equal(four[1]["image"], RGBA)
    mixed = as_source(([Image.fromarray(RGBA), RGBA[:4]], labels), 4)
    np.testing.assert_array_equal(mixed[0]["image"], RGBA)
    np.testing.assert_array_equal(mixed[1]["image"], RGBA[:4])
    six = as_source([(noise(8, 8, 6), 0), (noise(7, 8, 6), 1)], 6)
    assert six[1]["image"].shape == (7, 8, 6)


def test_an_array_with_other_channels_is_named():
    with says(
        "image 1 has shape (6, 5, 3), but (h, w, 4) is expected of 4 channels; put channels last,"
        " or set channels to what the images have"
    ):
        as_source([(RGBA, 0), (RGB, 1)], 4)[1]
    with says("cannot read image 1: it has 3 channels (RGB), but channels is 4; convert it, or"):
        as_source([(RGBA, 0), (Image.fromarray(RGB), 1)], 4)[1]
    with says("an image has shape (6, 5, 3), but (h, w, 1) or (h, w) is expected of 1 channel;"):
        as_source((RGB[None], [0]), 1)
    with says("the images have shape (3,), but (n, h, w, 4), (n, h, w, 1) or (n, h, w) is"):
        as_source((np.zeros(3, np.uint8), [0]), 4)


# --- preparation ----------------------------------------------------------------------------------


def preparation(channels, size=16, **fields):
    return Preprocessing(size, (0.5,) * channels, (0.25,) * channels, **fields)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("augment", sorted(set(AUGMENTATIONS) - {"trivial"}))
def test_each_channel_is_resized_cropped_and_flipped_by_itself(channels, augment):
    """As the channel of an RGB image is: what the others are has no effect."""
    image = noise(40, 30, channels)
    for interpolation in ("bilinear", "bicubic"):
        prepared = augmentation(augment, channels)(
            image, preparation(channels, interpolation=interpolation), np.random.default_rng(1),
            (0.3, 1.0),
        )  # fmt: skip
        assert prepared.dtype == np.uint8
        for c in range(channels):
            alone = augmentation(augment)(
                np.repeat(image[:, :, c : c + 1], 3, axis=2),
                preparation(3, interpolation=interpolation),
                np.random.default_rng(1),
                (0.3, 1.0),
            )
            np.testing.assert_array_equal(prepared[:, :, c], alone[:, :, 0])


def test_operations_on_colours_are_refused():
    message = (
        "augment is trivial, whose operations on colours and contrast are defined for RGB, but the"
        " images have 4 channels; set augment to crop_flip"
    )
    source = as_source((RGBA[None], [0]), 4)
    with says(message):
        train_batches(source, preparation(4), batch_size=1, seed=0, augment="trivial")


def test_images_of_another_number_of_channels_than_the_network_takes():
    message = (
        "an image has 4 channels, but the network takes 3; load the data with channels=3, or the"
        " network with in_channels=4"
    )
    with says(message):
        resize_and_centre_crop(RGBA, preparation(3))
    with says(message):
        random_resized_crop(RGBA, preparation(3), np.random.default_rng(0))
    source = as_source((RGBA[None], [0]), 4)
    with says(message):
        next(iter(eval_batches(source, preparation(3), batch_size=2)))


# --- runs -----------------------------------------------------------------------------------------


def save_pixels(path, pixels):
    """Writes an image of any number of channels: a PNG, or a TIFF of a page for each channel."""
    if pixels.shape[2] <= 4:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(f"{path}.png")
    else:
        path.with_suffix(".tif").write_bytes(stack(np.moveaxis(pixels, 2, 0)))


def make_folder(root, channels, side=20):
    """Two classes of images, eight for training and two each for validation and test.

    The last channel alone tells the classes apart.
    """
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for label, name in enumerate(("cats", "dogs")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise(side, side, channels, seed=(i, label, count))
                pixels[:, :, -1] = pixels[:, :, -1] // 2 + 127 * label
                save_pixels(root / split / name / str(i), pixels)
    return root


SMALL = {
    "model": "resnet10_32",
    "last_group": "layer1_0",
    "image_size": 16,
    "scenario": "fine_tune",
    "steps": 2,
    "batch_size": 8,
    "augment": "crop_flip",
    "accept_source": True,
}


def words(**fields):
    return [f"--config.{name}={value}" for name, value in (SMALL | fields).items()]


def config(**fields):
    made = config_lib.base()
    made.update(SMALL | fields)
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on RGB images, whose weights others start from."""
    base = tmp_path_factory.mktemp("rgb")
    data = make_folder(base / "photos", 3)
    experiment.run(config(data=f"folder:{data}", scenario="from_scratch"), base / "run")
    return base / "run"


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_run_from_the_command_line(channels, source, tmp_path, capsys):
    data, workdir = make_folder(tmp_path / "photos", channels), tmp_path / "run"
    fields = {"data": f"folder:{data}", "channels": channels, "init_from": source}
    argv = ["train", "--config", "fine_tune", "--workdir", workdir]
    code, _, err = run(capsys, *argv, *words(**fields))
    assert code == 0, err
    assert err.count(f"channels is {channels}: mean") == 1
    kernel = best_variables(workdir)["params"]["stem"]["conv"]["kernel"]
    assert kernel.shape[2] == channels
    kept = json.loads((workdir / "config.json").read_text())
    assert kept["channels"] == channels
    assert len(kept["normalisation"].split()) == 2 * channels
    assert json.loads((workdir / "result.json").read_text())["test_size"] == 4


def test_what_follows_a_run(source, tmp_path, capsys):
    data, workdir = make_folder(tmp_path / "photos", 4), tmp_path / "run"
    experiment.run(config(data=f"folder:{data}", channels=4, init_from=str(source)), workdir)
    result = json.loads((workdir / "result.json").read_text())
    code, out, err = run(capsys, "evaluate", "--workdir", workdir, "--split", "test")
    assert code == 0, err
    assert f"{result['test_accuracy']:.4f}" in out or f"{result['test_accuracy']:.1%}" in out, out
    images = sorted((data / "test").rglob("*.*"))
    code, out, err = run(capsys, "predict", "--workdir", workdir, data / "test")
    assert code == 0, err
    assert all(str(path) in out for path in images)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(RGB).save(photo)
    code, _, err = run(capsys, "predict", "--workdir", workdir, photo)
    assert code == 2
    assert f"{photo}: it has 3 channels (RGB), but channels is 4; convert it" in err
    output = tmp_path / "exported.safetensors"
    argv = ["export", "--workdir", workdir, "--format", "timm", "--output", output]
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    assert load_file(output)["conv1.weight"].shape[1] == 4
    assert "4-channel bytes / 255" in output.with_suffix(".md").read_text()
    code, _, err = run(capsys, "report", workdir, "--output", tmp_path / "report.html")
    assert code == 0, err


def test_the_first_kernel_is_fitted(source, tmp_path):
    data = make_folder(tmp_path / "photos", 4)
    rgb = best_variables(source)["params"]["stem"]["conv"]["kernel"]
    fields = {"data": f"folder:{data}", "init_from": str(source)}
    four = experiment.build(config(**fields, channels=4)).read_pretrained()
    fitted = four["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(fitted, adapt_channels(np.asarray(rgb), 4))


def test_weights_of_four_channels_start_runs_of_four_and_of_three(source, tmp_path, caplog):
    data = make_folder(tmp_path / "photos", 4)
    scratch = config(
        data=f"folder:{data}", channels=4, scenario="from_scratch", normalisation="half"
    )
    experiment.run(scratch, tmp_path / "four")
    kernel = best_variables(tmp_path / "four")["params"]["stem"]["conv"]["kernel"]
    caplog.clear()
    again = config(data=f"folder:{data}", channels=4, init_from=str(tmp_path / "four"))
    built = experiment.build(again, fetch_weights=True)
    assert same(built.read_pretrained()["params"]["stem"]["conv"]["kernel"], kernel)
    assert built.preprocessing.mean == (0.5,) * 4
    assert not [message for message in caplog.messages if message.startswith("channels is")]
    again.channels, again.data = None, "embedded:digits"
    built = experiment.build(again, fetch_weights=True)
    fitted = built.read_pretrained()["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(fitted, adapt_channels(np.asarray(kernel), 3))
    assert built.preprocessing.channels == 3


def test_a_resumed_run_ends_bit_identical(tmp_path):
    data = make_folder(tmp_path / "photos", 6)
    fields = {"data": f"folder:{data}", "channels": 6, "scenario": "from_scratch", "steps": 4}
    whole = experiment.run(config(**fields, checkpoint_every=2), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "result.json").unlink()
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
    resumed = experiment.run(config(**fields, checkpoint_every=2), tmp_path / "killed")
    assert same(whole.variables, resumed.variables)
    for other in ({"channels": 3}, {"channels": None}):
        with pytest.raises(InputError, match=r"channels.*6"):
            experiment.run(config(**fields | other), tmp_path / "whole")


def test_a_run_of_a_time_without_the_field_is_of_rgb(source):
    path = source / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("channels") is None
    path.write_text(json.dumps(content))
    assert experiment.read_workdir(source).experiment.preprocessing.channels == 3


def test_features_are_cached_probed_and_swept(source, tmp_path, capsys):
    """Frozen groups are computed once, with the channels that a run asks for."""
    data = make_folder(tmp_path / "photos", 2)
    fields = {"data": f"folder:{data}", "channels": 2, "init_from": source, "augment": "none"}
    fields["scenario"] = "feature_extraction"
    argv = ["--config", "feature_extraction", *words(**fields)]
    code, _, err = run(capsys, "train", "--workdir", tmp_path / "run", *argv)
    assert code == 0, err
    assert "groups, which are frozen, is cached" in err
    exp = experiment.build(experiment.read_config(tmp_path / "run"))
    trained = best_variables(tmp_path / "run")
    start = exp.read_pretrained()
    assert same(trained["params"]["stem"], start["params"]["stem"])
    code, out, err = run(capsys, "plan", *argv)
    assert code == 0, err
    assert "at 16 px, 2 channels" in out
    stem = tracing.abstract_variables(exp.model, exp.preprocessing.image_shape)["params"]["stem"]
    assert f"{parameter_count(stem):,}" in out
    code, _, err = run(capsys, "probe", "--workdir", tmp_path / "probe", *argv)
    assert code == 0, err
    lr = [*words(**fields | {"steps": 20})]
    code, _, err = run(
        capsys, "find_lr", "--config", "fine_tune", "--output", tmp_path / "lr.png", *lr
    )
    assert code == 0, err


def test_the_command_of_the_documentation(source, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("healthy", "ill")):
            (tmp_path / "cells" / split / name).mkdir(parents=True)
            for i in range(count):
                pages = rng.integers(0, 300 + 900 * label, (6, 20, 20), np.uint16)
                (tmp_path / "cells" / split / name / f"{i}.tif").write_bytes(stack(pages))
    page = (REPOSITORY / "docs" / "data.md").read_text()
    (command,) = (line for line in commands(page) if "--config.channels" in line)
    given = {
        "CELLS": tmp_path / "cells",
        "runs/cells": tmp_path / "run",
        "runs/demo/source": source,
    }
    for name, path in given.items():
        command = command.replace(name, str(path))
    own = {name: SMALL[name] for name in ("last_group", "image_size", "accept_source")}
    argv = [*shlex.split(command), *(f"--config.{name}={value}" for name, value in own.items())]
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    assert (
        err.count("channels is 6: means, deviations and pretrained first kernels are those of") == 1
    )
    assert "more than 8 bits" not in err
    assert experiment.read_workdir(tmp_path / "run").experiment.preprocessing.channels == 6


def test_tables_too(source, tmp_path):
    data = make_folder(tmp_path / "photos", 4)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(data.rglob("*.png"))
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    loaded = data_lib.load(f"csv:{tmp_path / 'table.csv'}", channels=4)
    whole = data_lib.load(f"folder:{data}", channels=4)
    for split in ("train", "val", "test"):
        a, b = getattr(loaded, split), getattr(whole, split)
        assert a[0]["image"].shape == (20, 20, 4)
        np.testing.assert_array_equal(a[0]["image"], b[0]["image"])


def test_the_same_files_with_other_channels_are_other_data(tmp_path):
    data = make_folder(tmp_path / "photos", 4)
    seen = {fingerprint(data_lib.load(f"folder:{data}", channels=c).train) for c in (None, 3, 4)}
    assert len(seen) == 3


def test_images_come_back_with_their_channels_where_files_were_renamed(tmp_path):
    data = make_folder(tmp_path / "photos", 4)
    dataset = data_lib.load(f"folder:{data}", channels=4)
    kept, first = data_lib.kept.describe(dataset), dataset.train[0]["image"]
    (data / "train" / "cats" / "0.png").rename(data / "train" / "cats" / "z.png")
    again = data_lib.load(f"folder:{data}", channels=4, kept=kept)
    assert [again.train[i]["image"].shape for i in (0, 15)] == [(20, 20, 4)] * 2
    np.testing.assert_array_equal(again.train[0]["image"], first)


@pytest.mark.parametrize("channels", [1, 4])
def test_folds_keep_the_channels(channels, tmp_path):
    spec = f"folder:{make_folder(tmp_path / 'photos', channels)}"
    whole = data_lib.load(spec, channels=channels)
    for fold in range(3):
        dataset = data_lib.load(spec, channels=channels, folds=3, fold=fold)
        for source in (dataset.train, dataset.val, dataset.test):
            base, rows = data_lib.unwrap_subset(source)
            assert {source[i]["image"].shape for i in range(len(rows))} == {(20, 20, channels)}
            name = base.names[rows[0]]
            if name in whole.train.names:
                same = whole.train[whole.train.names.index(name)]["image"]
                np.testing.assert_array_equal(source[0]["image"], same)


def test_worker_processes_read_the_same(tmp_path):
    source = data_lib.load(f"folder:{make_folder(tmp_path / 'photos', 4)}", channels=4).train
    copy = pickle.loads(pickle.dumps(source))
    for i in (0, 7):
        np.testing.assert_array_equal(copy[i]["image"], source[i]["image"])
    assert fingerprint(copy) == fingerprint(source)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"channels": 4}, "cats/0.png: it has 3 channels (RGB), but channels is 4; convert it"),
        ({"channels": 0}, "channels is 0; set it to 1 or more, or leave it out for RGB"),
        ({"channels": -1}, "channels is -1; set it to 1 or more"),
        ({"channels": 3, "normalisation": "1 1"}, "no normalisation '1 1'"),
        (
            {"channels": 4, "normalisation": "0 0 0 0 1 1 1"},
            "normalisation '0 0 0 0 1 1 1' has 7 numbers, but the images have 4 channels; give 8,"
            " first the means, or 6 for red, green and blue",
        ),
        (
            {"channels": 4, "normalisation": "0 0 0 0 1 1 1 0"},
            "has a standard deviation of 0 or less; set the last 4 numbers above 0",
        ),
        (
            {"channels": 1, "data": "embedded:digits"},
            "channels is 1, but embedded:digits is read as RGB; leave channels out, or give the",
        ),
        ({"channels": 4, "augment": "trivial"}, None),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(fields, sentence, tmp_path, capsys):
    channels = 4 if sentence is None else 3
    data = make_folder(tmp_path / "photos", channels)
    given = {"data": f"folder:{data}", "scenario": "from_scratch"} | fields
    code, _, err = run(
        capsys, "train", "--config", "from_scratch", "--workdir", tmp_path / "run", *words(**given)
    )
    assert code == 2
    assert (sentence or "augment is trivial, whose operations on colours") in err, err
    assert not (tmp_path / "run").exists()


def test_means_and_deviations_of_ones_own(tmp_path):
    data = make_folder(tmp_path / "photos", 4)
    numbers = "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8"
    fields = {"data": f"folder:{data}", "channels": 4, "normalisation": numbers}
    built = experiment.build(config(**fields))
    assert built.preprocessing.mean == (0.1, 0.2, 0.3, 0.4)
    assert built.preprocessing.std == (0.5, 0.6, 0.7, 0.8)
    assert experiment.resolve(built.config).normalisation == numbers


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_from_python(channels):
    images = noise(12, 16, 16, channels)
    labels = np.arange(12) % 2
    model, variables, preprocessing = tljax.load(
        "resnet10_32", num_classes=2, in_channels=channels, image_size=16, last_group="layer1_0"
    )
    given = images[..., 0] if channels == 1 else images
    result = tljax.fit(
        model,
        variables,
        tljax.fine_tune(model.groups),
        (given, labels),
        (given, labels),
        preprocessing=preprocessing,
        steps=2,
        batch_size=4,
        augment="crop_flip",
        progress=False,
    )
    assert result.variables["params"]["stem"]["conv"]["kernel"].shape[2] == channels
