"""Data sets, splits, transforms and the pipeline, on real files and embedded images."""

import itertools
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from tljax import data
from tljax.data import embedded, glyphs, transforms
from tljax.data.folder import packaged_folder_spec
from tljax.data.images import decode
from tljax.data.listing import find_images
from tljax.data.pipeline import TrainBatches
from tljax.data.sources import Source, unwrap_subset
from tljax.data.splits import default_val_fraction, stratified_order, stratified_split
from tljax.errors import InputError

SMALL = data.Preprocessing(image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3)


def says(sentence: str):
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def numbered(count: int, side: int = 8) -> data.ArraySource:
    """Image i is filled with i, so that a batch shows which images it holds."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, side, side))
    return data.ArraySource(images, np.arange(count) % 3)


def numbers(batch) -> list[int]:
    return batch["image"][:, 0, 0, 0].tolist()


def indices(subset: Source) -> set[int]:
    assert isinstance(subset, data.Subset)
    return set(subset.indices.tolist())


# ------------------------------------------------------------------------------- sources


class PilDataset:
    """Like a torchvision data set: pairs of a Pillow image and an int, labels in `targets`."""

    targets = (0, 1, 1)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return Image.new("RGB", (6, 4), (index, 0, 0)), self.targets[index]


class DictDataset:
    """Like a TFDS data source: dicts, and no labels without reading them."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": np.full((4, 6, 1), index, np.uint8), "label": np.int64(index % 2)}


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (PilDataset(), [0, 1, 1]),
        (DictDataset(), [0, 1, 0]),
        ((np.arange(72, dtype=np.uint8).reshape(3, 4, 6), [2, 0, 1]), [2, 0, 1]),
        ([np.zeros((3, 4, 6, 3), np.uint8), np.array([0, 0, 1])], [0, 0, 1]),
        ([(np.zeros((4, 6), np.uint8), 1), (np.zeros((4, 6), np.uint8), 0)], [1, 0]),
        ([[np.zeros((4, 6), np.uint8), 0], [np.zeros((4, 6), np.uint8), 1]], [0, 1]),
        ([[Image.new("L", (6, 4)), np.int8(1)], [Image.new("P", (6, 4)), np.array(0)]], [1, 0]),
        (([np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)], [0, 1]), [0, 1]),
        (([Image.new("L", (6, 4)), Image.new("RGBA", (6, 4))], np.array([0, 1])), [0, 1]),
        (([np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3), np.uint8)], (1, 0)), [1, 0]),
    ],
)
def test_as_source_adapts_what_users_have(given, labels):
    source = data.as_source(given)
    assert len(source) == len(labels)
    assert source.labels.tolist() == labels
    for i, label in enumerate(labels):
        assert source[i]["label"] == label
        assert source[i]["image"].shape == (4, 6, 3)
        assert source[i]["image"].dtype == np.uint8
    assert data.as_source(source) is source


def test_a_users_data_set_can_be_batched():
    (batch,) = data.eval_batches(data.as_source(PilDataset()), SMALL, batch_size=3)
    assert batch["image"].shape == (3, 8, 8, 3)
    assert numbers(batch) == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (7, "cannot read images from a int"),
        ((np.zeros((2, 4, 4, 3), np.float32), [0, 1]), "dtype float32, but uint8 RGB"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 1, 1]), r"2 images, but the labels have shape \(3,\)"),
        (
            (np.zeros((2, 4, 4), np.uint8), [0.0, np.inf]),
            "1 numbers among the labels are not finite",
        ),
        ((np.zeros((2, 4, 4), np.uint8), [-1, 1]), "integers from 0 are expected"),
        ((np.zeros((0, 4, 4), np.uint8), []), "no images"),
        ((np.zeros(2, np.uint8), [0, 1]), r"the images have shape \(2,\)"),
        ([(np.zeros((4, 4), np.uint8), "cat")], "a label is a str"),
        ([[np.zeros((4, 4), np.uint8), "cat"], [np.zeros((4, 4), np.uint8), "dog"]], "is a str"),
        (([Image.new("L", (4, 4))], [0, 1]), r"1 images, but the labels have shape \(2,\)"),
        ([5, 6, 7], "an element of the data is a int"),
    ],
)
def test_as_source_says_what_is_wrong(given, sentence):
    with pytest.raises(InputError, match=sentence):
        data.as_source(given)


class Photographs:
    """A user's data set without `fingerprint`; image `wrong` cannot be read."""

    def __init__(self, images, wrong=None):
        self.images, self.labels, self.wrong = images, [0] * len(images), wrong

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.wrong:
            raise data.Unreadable(str(index), "it is damaged")
        return self.images[index], 0


def test_every_image_of_a_users_data_is_part_of_its_fingerprint():
    images = np.zeros((200, 2, 3), np.uint8)
    rgb = np.repeat(images[..., None], 3, axis=3)
    first = data.fingerprint(data.as_source(Photographs(images)))
    assert first == data.fingerprint(data.as_source(Photographs(rgb)))
    seen = {first, data.fingerprint(data.as_source(Photographs(images.swapaxes(1, 2))))}
    for row in (1, 100, 198):
        changed = images.copy()
        changed[row, 1, 1] = 1
        seen.add(data.fingerprint(data.as_source(Photographs(changed))))
        seen.add(data.fingerprint(data.as_source(Photographs(images, wrong=row))))
    assert len(seen) == 8


# -------------------------------------------------------------------------------- splits


def test_every_prefix_of_a_stratified_order_has_the_proportions_of_the_whole():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100))
    for size in range(1, 101):
        counts = np.bincount(labels[order[:size]], minlength=3)
        assert np.abs(counts - size * np.array([0.6, 0.3, 0.1])).max() <= 1


def test_a_stratified_split_leaves_something_of_every_class_on_both_sides():
    labels = np.repeat([0, 1, 2, 4], [50, 2, 1, 3])
    kept, split_off = stratified_split(labels, 0.1, np.random.default_rng(0))
    assert sorted([*kept, *split_off]) == list(range(len(labels)))
    assert np.bincount(labels[split_off], minlength=5).tolist() == [5, 1, 0, 0, 1]


def test_validation_is_seeded_and_does_not_depend_on_the_training_size():
    splits = [
        data.load("embedded:digits", seed=seed, train_size=size)
        for seed, size in [(0, None), (0, 100), (1, None)]
    ]
    assert indices(splits[0].val) == indices(splits[1].val)
    assert indices(splits[0].val) != indices(splits[2].val)
    assert indices(splits[0].train).isdisjoint(indices(splits[0].val))
    shares = [
        np.bincount(source.labels) / len(source) for source in (splits[0].val, splits[0].train)
    ]
    np.testing.assert_allclose(*shares, atol=0.01)


def originals(dataset: data.Dataset) -> set[int]:
    """Indices in the whole training split of a subsampled one."""
    return set(unwrap_subset(dataset.train)[1].tolist())


def test_smaller_training_sets_are_contained_in_larger_ones():
    chosen = [
        originals(data.load("embedded:digits", train_size=size, seed=3)) for size in (5, 50, 100)
    ]
    assert [len(c) for c in chosen] == [5, 50, 100]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[2] != originals(data.load("embedded:digits", train_size=100, seed=4))


def test_train_per_class():
    few = data.load("embedded:textures", train_per_class=3)
    more = data.load("embedded:textures", train_per_class=5)
    assert np.bincount(few.train.labels).tolist() == [3] * 10
    assert originals(few) < originals(more)


def test_the_share_to_validate_on_goes_by_size():
    digits = data.load("embedded:digits")
    images = len(digits.train) + len(digits.val)
    assert len(digits.val) == pytest.approx(images / 5, abs=digits.num_classes)
    assert default_val_fraction(1_000_000) == 0.005, "5,000 images at most"
    none = data.load("embedded:digits", val_fraction=0.0)
    assert none.val is None
    assert len(none.train) == images


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"train_size": 9, "train_per_class": 1},
            "train_size is 9 and train_per_class is 1; set one of them",
        ),
        (
            {"train_size": 2000},
            "train_size is 2000, but embedded:digits has 1038 training images after validation; "
            "set it between 1 and 1038",
        ),
        (
            {"train_per_class": 200},
            "train_per_class is 200, but class '8' of embedded:digits has 101 training images "
            "after validation; set it between 1 and that",
        ),
        ({"val_fraction": 1.0}, "val_fraction is 1.0; set it to 0 or more, and below 1"),
        ({"seed": -1}, "seed is -1; set it to 0 or more"),
    ],
)
def test_load_refuses_what_cannot_be(options, sentence):
    with says(sentence):
        data.load("embedded:digits", **options)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "digits",
            "unknown data 'digits': write embedded:NAME, folder:PATH, csv:FILE, parquet:FILE, "
            "hf:FOLDER, hf://datasets/OWNER/NAME, wds:SHARDS or tfds:NAME",
        ),
        (
            "foldr:x",
            "unknown data 'foldr:x' (did you mean 'folder'?): write embedded:NAME, folder:PATH, "
            "csv:FILE, parquet:FILE, hf:FOLDER, hf://datasets/OWNER/NAME, wds:SHARDS or tfds:NAME",
        ),
        (
            "embedded:digit",
            "unknown embedded data 'digit' (did you mean 'digits'?): use one of embedded:digits, "
            "embedded:digits_shifted, embedded:textures, embedded:glyphs, embedded:glyphs_a, "
            "embedded:glyphs_b",
        ),
    ],
)
def test_unknown_data(spec, sentence):
    for function in (data.load, data.read_class_names):
        with says(sentence):
            function(spec)


# ------------------------------------------------------------------------------ embedded


@pytest.mark.parametrize(
    "name", ["digits", "digits_shifted", "textures", "glyphs", "glyphs_a", "glyphs_b"]
)
def test_embedded_data_sets(name):
    dataset = data.load(f"embedded:{name}")
    assert dataset.name == f"embedded:{name}"
    assert dataset.class_names == data.read_class_names(dataset.name)
    assert len(dataset.train) >= 1000
    if name != "textures":  # it has validation images of its own
        assert indices(dataset.train).isdisjoint(indices(dataset.val))
    for source in (dataset.train, dataset.val, dataset.test):
        assert set(source.labels) == set(range(dataset.num_classes))
        assert source[0]["image"].shape == (32, 32, 3)
        assert source[0]["image"].dtype == np.uint8
        assert source[-1]["label"] == source.labels[-1]


def test_digits_are_the_whole_of_scikit_learns_whatever_the_seed():
    first, second = (data.load("embedded:digits", seed=seed) for seed in (0, 1))
    assert first.test is second.test
    assert len(first.train) + len(first.val) == 1297
    assert len(first.test) == 500
    seen = {e["image"].tobytes() for e in map(first.test.__getitem__, range(500))}
    rest = {first.train.source[i]["image"].tobytes() for i in range(1297)}
    assert len(seen | rest) == 1797


def test_texture_tiles_share_no_pixel():
    """In a picture with numbered pixels, each number is in one tile."""
    pixels = np.arange(70 * 100).reshape(70, 100)
    low, high = (
        embedded._tiles(np.repeat(digit.astype(np.uint8)[:, :, None], 3, axis=2))
        for digit in (pixels % 256, pixels // 256)
    )
    tiles = low + 256 * high.astype(int)
    assert tiles.shape == (2, 3, 32, 32)
    assert len(np.unique(tiles)) == tiles.size


def test_textures_are_validated_on_a_strip_of_their_own():
    """The left quarter of each photograph is for validation, the right one for testing."""
    first, second = (data.load("embedded:textures", seed=seed, val_fraction=0.1) for seed in (0, 1))
    assert first.val is second.val
    assert [len(split) for split in (first.train, first.val, first.test)] == [1166, 592, 592]
    assert data.load("embedded:textures", train_size=1000).val is first.val
    folder = embedded.find_in_package("skimage", "data")
    for label, columns in ((first.class_names.index("cat"), 14), (0, 16)):
        tiles = embedded._tiles(decode(folder / list(embedded._PHOTOGRAPHS.values())[label]))
        assert tiles.shape[1] == columns
        strips = tiles[:, :4], tiles[:, 4 : columns - 4], tiles[:, columns - 4 :]
        for split, strip in zip((first.val, first.train, first.test), strips, strict=True):
            own = [split[int(i)]["image"][..., 0] for i in np.flatnonzero(split.labels == label)]
            np.testing.assert_array_equal(own, strip.reshape(-1, 32, 32))


def test_every_font_draws_every_letter():
    assert len(glyphs.CLASSES) == 37
    for font in glyphs.FONTS:
        for pen in (1, 5):
            letters = [np.asarray(glyphs.draw_upright(font, c, pen)) for c in glyphs.CLASSES]
            assert min(letter.max() for letter in letters) == 255
            assert len({letter.tobytes() for letter in letters}) == 37


def test_a_glyph_is_a_function_of_split_and_index():
    one, other = glyphs.GlyphSource("train"), glyphs.GlyphSource("train")
    forwards = [one[i]["image"] for i in range(40)]
    backwards = [other[i]["image"] for i in reversed(range(40))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    np.testing.assert_array_equal(forwards[5], one[5]["image"])  # from memory
    assert not np.array_equal(forwards[0], glyphs.GlyphSource("test")[0]["image"])
    assert one.labels[:40].tolist() == [i % 37 for i in range(40)]


def test_the_halves_share_no_letter_and_are_drawn_as_glyphs_are():
    halves = [data.load(f"embedded:glyphs_{half}") for half in "ab"]
    assert sorted(sum((half.class_names for half in halves), ())) == list(glyphs.CLASSES[:26])
    assert [half.num_classes for half in halves] == [13, 13]
    for half in halves:
        assert np.bincount(half.test.labels).tolist() == [200] * 13
        rng = np.random.default_rng((1, 15))  # second split, image 15
        np.testing.assert_array_equal(
            half.test[15]["image"][..., 0], glyphs.draw(half.class_names[2], rng)
        )
        again = pickle.loads(pickle.dumps(half.test))
        np.testing.assert_array_equal(again[15]["image"], half.test[15]["image"])
        assert len(again) == len(half.test)


def test_importing_data_imports_no_heavy_package():
    heavy = "{'tensorflow', 'torch', 'skimage', 'sklearn', 'matplotlib', 'grain'}"
    code = f"import sys, tljax.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -------------------------------------------------------------------------------- folder


def fill(root, layout: dict[str, int], extension: str = ".png"):
    """Write `layout[folder]` images into each folder; the blue value is the image's number."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.new("RGB", (8, 8), (0, 0, i))
            image.save(root / folder / f"{i:03}{extension}")
    return f"folder:{root}"


def files(source: Source) -> set:
    if isinstance(source, data.Subset):
        everything = source.source
        while isinstance(everything, data.Subset):
            source = data.Subset(everything.source, everything.indices[source.indices])
            everything = source.source
        return {everything.files[i] for i in source.indices}
    return set(source.files)


def test_folder_with_splits(tmp_path):
    spec = fill(
        tmp_path, {"train/b": 3, "train/a": 2, "test/b": 2, "validation/a": 1, "validation/b": 1}
    )
    dataset = data.load(spec)
    assert dataset.class_names == data.read_class_names(spec) == ("a", "b")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert [dataset.train[i]["image"][0, 0, 2] for i in range(5)] == [0, 1, 0, 1, 2]
    assert dataset.val.labels.tolist() == [0, 1]
    assert dataset.test.labels.tolist() == [1, 1]


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_folder_without_test_images_splits_a_fixed_fifth(tmp_path, prefix):
    spec = fill(tmp_path, {f"{prefix}cat": 20, f"{prefix}dog": 10})
    first, second = (data.load(spec, seed=seed) for seed in (0, 1))
    assert np.bincount(first.test.labels).tolist() == [4, 2]
    assert files(first.test) == files(second.test)
    assert files(first.val) != files(second.val)
    parts = [files(source) for source in (first.train, first.val, first.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30


def test_a_class_may_be_called_train(tmp_path):
    assert data.read_class_names(fill(tmp_path, {"train": 4, "bus": 4})) == ("bus", "train")


def test_folder_names_what_it_leaves_out(tmp_path, caplog):
    spec = fill(tmp_path, {"a": 5, "b": 5, ".cache": 3}, ".JPeG")
    for name in (".hidden.jpg", "Thumbs.db", "desktop.ini"):
        (tmp_path / "a" / name).write_text("no image")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.md").write_text("no folder")
    for _ in range(2):
        dataset = data.load(spec)
        assert dataset.class_names == ("a", "b")
        assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 10
    assert not caplog.messages
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (tmp_path / "b" / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "logo.png").write_bytes(b"")
    for _ in range(2):
        assert len(files(data.load(spec).test)) == 2
    assert sorted(caplog.messages) == [
        f"left out 1 images in {tmp_path} that lie in no class folder: logo.png",
        f"left out 4 files in {tmp_path} that are not JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG"
        " 2000 or AVIF images: a/notes.txt, b/link, b/photo.heic, b/pipe.png",
    ]


def test_folder_takes_an_image_for_one_by_its_name_or_content(tmp_path, caplog):
    suffixes = [
        *(".tif", ".tiff", ".gif", ".jfif", ".jpe", ".jp2", ".avif", ".ppm", ".pgm", ".dib"),
        *(".TIF", ".webp", "", ".dat", ".image", ".1"),
    ]
    kinds = {".tif": "TIFF", ".jp2": "JPEG2000", ".avif": "AVIF", ".ppm": "PPM", ".dib": "DIB"}
    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i, suffix in enumerate(suffixes):
            image = Image.new("RGB", (8, 8), (100 * label, 0, 10 * i))
            image.save(tmp_path / name / f"{i:02}{suffix}", kinds.get(suffix, "BMP"))
    (tmp_path / "a" / "wrong.png").write_text("no image")
    found = data.load(f"folder:{tmp_path}").test.source
    assert found.labels.tolist() == [0] * 17 + [1] * 16
    pixels = [found[i]["image"][0, 0].tolist() for i in range(16)]
    assert np.abs(np.array(pixels) - [[0, 0, 10 * i] for i in range(16)]).max() <= 3
    assert not caplog.messages
    with pytest.raises(data.Unreadable, match=r"wrong\.png"):
        found[16]


def test_images_in_sub_folders_belong_to_the_class(tmp_path, caplog):
    layout = {"a/x/deep": 2, "a": 0, "a/.hidden": 1, "a/@eaDir/1.png": 1, "b/y": 3, "b/z": 0}
    spec = fill(tmp_path, layout)
    for name, into in {"a": ["1.png", "zz.png"], "b": ["one.png", "y2.png"]}.items():
        for file in into:
            Image.new("RGB", (8, 8)).save(tmp_path / name / file)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "round").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "y3").symlink_to(tmp_path / "b" / "y")
    source = data.load(spec).test.source
    names = [file.relative_to(tmp_path).as_posix() for file in source.files]
    assert names == [
        *("a/1.png", "a/x/deep/000.png", "a/x/deep/001.png", "a/zz.png", "b/one.png"),
        *("b/y/000.png", "b/y/001.png", "b/y/002.png", "b/y2.png"),
    ]
    assert source.labels.tolist() == [0] * 4 + [1] * 5
    assert find_images(tmp_path / "a") == source.files[:4]
    assert find_images(tmp_path) == source.files
    assert caplog.messages == [
        f"5 images in {tmp_path} lie in sub-folders of their class folders: a/x/deep/000.png,"
        " a/x/deep/001.png, b/y/000.png, b/y/001.png, b/y/002.png"
    ]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("train", "Val", "Test"),
        ("TRAIN", "dev", "tests"),
        ("train_set", "valid", "test_set"),
        ("Train Images", "validation-set", "eval"),
        ("training-data", "val", "Evaluation"),
        ("train", "valid", None),
    ],
)
def test_folder_knows_the_usual_names_of_splits(tmp_path, train, val, test, caplog):
    spec = fill(
        tmp_path,
        {f"{train}/a": 5, f"{train}/b": 5, ".git/x": 1, "docs": 0, "empty/x/y": 0}
        | ({f"{val}/a": 1, f"{val}/b": 1} if val else {})
        | ({f"{test}/a": 3, f"{test}/b": 4} if test else {}),
    )
    dataset = data.load(spec)
    assert dataset.class_names == data.read_class_names(spec) == ("a", "b")
    assert len(dataset.test) == (7 if test else 2)
    assert len(dataset.val) == 2
    assert len(dataset.train) == (10 if val and test else 8)
    assert ["has no test folder: 2 of" in text for text in caplog.messages] == [True] * (not test)


@pytest.mark.parametrize("name", ["test", "eval", "Val", "training", "dev"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    spec = fill(tmp_path, {name: 4, "bus": 4, "car": 4})
    assert set(data.read_class_names(spec)) == {name, "bus", "car"}
    assert len(files(data.load(spec).test)) == 3


@pytest.mark.parametrize(
    ("inside", "within"),
    [
        ("set", {"train/a": 2, "train/b": 2, "test/a": 1}),
        ("set", {"a": 3, "b": 3}),
        ("one/two", {"a": 3, "b/c": 3}),
        ("data", {"train/train/a": 2, "train/train/b": 2, "test/test/b": 1}),
    ],
)
def test_a_data_set_one_folder_down_is_entered(tmp_path, inside, within, caplog):
    spec = fill(tmp_path, {f"{inside}/{folder}": count for folder, count in within.items()})
    fill(tmp_path, {"__MACOSX/set/a": 1})
    (tmp_path / "README.txt").write_text("what this is")
    assert data.read_class_names(spec) == ("a", "b")
    assert not caplog.messages
    assert len(data.load(spec).test) == (1 if "test" in str(within) else 2)
    data.load(spec)
    message = f"{tmp_path / inside} is read, the only folder in {tmp_path}"
    assert [told for told in caplog.messages if "is read" in told] == [message]


def test_folders_in_a_circle_are_entered_once(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path)
    with pytest.raises(InputError, match="holds only one class folder, 'round'"):
        data.load(f"folder:{tmp_path}")


def test_a_folder_with_nothing_but_test_images(tmp_path):
    spec = fill(tmp_path / "set", {"Testing/a": 2, "Testing/b/x": 1})
    for place in (spec, f"folder:{tmp_path}"):
        dataset = data.load(place, test_only=True)
        assert dataset.class_names == data.read_class_names(place) == ("a", "b")
        assert (len(dataset.train), dataset.val, len(dataset.test)) == (0, None, 3)


def test_folder_says_which_images_are_unused(tmp_path, caplog):
    spec = fill(tmp_path, {"train/a": 5, "train/b": 5, "seg_pred": 2, "train/c": 3, "test/a": 1})
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "stray.png")
    data.load(spec)
    assert caplog.messages == [
        f"the images in seg_pred, beside the training images in {tmp_path}, are not used",
        f"left out 1 images in {tmp_path} that lie in no class folder: test/stray.png",
    ]


def test_the_fingerprint_is_that_of_every_files_content_and_class(tmp_path):
    spec = fill(tmp_path / "data", {"a": 4, "b": 4, "c/x": 1})
    root = tmp_path / "data"

    def load(**options):
        return data.load(spec, **options).test.source

    source = load()
    seen = [data.fingerprint(source)]
    assert data.fingerprint(pickle.loads(pickle.dumps(source))) == data.fingerprint(load())
    for name in ("a/001.png", "b/002.png"):
        content = bytearray((root / name).read_bytes())
        content[-20] ^= 1
        (root / name).write_bytes(content)
        seen.append(data.fingerprint(source))
        assert data.fingerprint(load()) == seen[-1]
    (root / "a" / "000.png").unlink()
    seen.append(data.fingerprint(source))
    (root / "c" / "x").rename(root / "c" / "y")
    seen.append(data.fingerprint(load()))
    (root / "c" / "y" / "000.png").rename(root / "c" / "000.png")
    seen.append(data.fingerprint(load()))
    seen.append(data.fingerprint(load(deep_images="own_range")))
    assert len(set(seen)) == 7


def test_the_fingerprint_of_a_large_folder_is_that_of_every_file_too(tmp_path):
    spec = fill(tmp_path, {"a": 3, "b": 3})
    with (tmp_path / "a" / "000.png").open("ab") as large:
        large.truncate(2**28)
    first = data.fingerprint(data.load(spec).test.source)
    content = bytearray((tmp_path / "a" / "001.png").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a" / "001.png").write_bytes(content)
    assert data.fingerprint(data.load(spec).test.source) != first


def test_the_fingerprint_of_a_split_is_that_of_its_images_alone(tmp_path):
    spec = fill(tmp_path, {"cat": 3, "dog": 1})
    base = data.load(spec).test.source
    found = data.fingerprint(data.Subset(data.Subset(base, [3, 1, 0]), [1, 0]))
    (tmp_path / "cat" / "000.png").unlink()
    assert data.fingerprint(data.Subset(base, [1, 3])) == found
    assert data.fingerprint(data.Subset(base, [3, 1])) != found


def test_deep_images_is_one_of_two():
    with pytest.raises(InputError, match=r"no deep_images 'own_rnge' \(did you mean"):
        data.load("embedded:digits", deep_images="own_rnge")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ({}, "{} holds no class folders; put the images of each class into a folder of its own"),
        ({"a": 3}, "{} holds only one class folder, 'a'; add at least one more class"),
        (
            {"a": 3, "b": 0},
            "the class folder {}/b holds no image; add JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG "
            "2000 or AVIF images or remove it",
        ),
        (
            {"train/a": 2, "train/b": 2, "Test/a": 1, "eval/a": 1},
            "{} holds both Test and eval; keep one of them",
        ),
        (
            {"train/a": 2, "train/b": 2, "Training/a": 1},
            "{} holds both Training and train; keep one of them",
        ),
        (
            {"train/a": 2, "train/b": 2, "holdout/a": 1, "holdout/b": 0},
            "{}/holdout holds folders of images, but lies beside the training images and is "
            "neither test nor val; rename it to one of them, or move it away",
        ),
        (
            {"seg_test/a": 2, "seg_train/a": 2, "seg_train/b": 1},
            "{} holds no folder called train, but seg_test, seg_train with folders of images "
            "inside; call the folders of the splits train, test and val",
        ),
        (
            {"Test/a": 2, "Test/b": 2},
            "folder:{} has test images alone; add training images, in a split or folder called "
            "train, or give it to `tljax evaluate --data`",
        ),
        (
            {"train": 3, "test": 3},
            "{}/train holds no class folders; put the images of each class into a folder of its "
            "own",
        ),
        (
            {"cat/train": 2, "cat/test": 2, "dog/train": 2},
            "{}/cat/train lies in what would be a class folder; give the path of {}/cat if that is "
            "the data set, else put the folders of the classes into train",
        ),
        (
            {"a": 1, "b": 1},
            "{} has one image per class, so none can be kept for testing; add images or a test "
            "folder",
        ),
        (
            {"train": 0},
            "{}/train holds no class folders; put the images of each class into a folder of its "
            "own",
        ),
        (
            {"train/a": 2, "train/b": 2, "test": 0},
            "{}/test holds no class folders; fill it or remove it",
        ),
        (
            {"train/a": 2, "train/b": 2, "test": 3},
            "{}/test holds images, but no class folders; put those of each class into a folder of "
            "its own, or move it away",
        ),
        (
            {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1, "test/d": 1},
            "{}/test holds classes that the training images lack: c, d; remove or rename them",
        ),
        (
            {"train/a": 2, "train/b": 2, "val/a": 1, "valid/a": 1},
            "{} holds both val and valid; keep one of them",
        ),
        (
            {"train/a": 1, "train/b": 1, "test/a": 1},
            "folder:{} has one training image per class, so none can be kept for validation; add "
            "images",
        ),
    ],
)
def test_folder_says_what_is_wrong(tmp_path, layout, sentence):
    spec = fill(tmp_path, layout)
    with says(sentence.replace("{}", str(tmp_path))):
        data.load(spec)


def test_folder_that_a_package_ships():
    assert packaged_folder_spec("tljax", "data/embedded.py") == f"folder:{embedded.__file__}"
    with pytest.raises(InputError, match="not installed; pip install it"):
        packaged_folder_spec("no_such_package", "images")


def test_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    for function in (data.load, data.read_class_names):
        with says(f"the data folder {tmp_path}/none does not exist; check the path"):
            function(f"folder:{tmp_path}/none")
        with says(f"{tmp_path}/file is a file; give the folder that holds the class folders"):
            function(f"folder:{tmp_path}/file")


# ---------------------------------------------------------------------------- transforms


def test_normalise():
    images = np.array([0, 255], np.uint8).repeat(3).reshape(2, 1, 1, 3)
    out = data.normalise(images, SMALL)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0, 0], [[-2] * 3, [2] * 3])


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (40, 13), (9, 300), (1, 1)])
@pytest.mark.parametrize("crop_ratio", [1.0, 0.875, 0.5])
def test_evaluation_transform_gives_the_size(shape, crop_ratio):
    preprocessing = data.Preprocessing(8, (0,) * 3, (1,) * 3, crop_ratio=crop_ratio)
    image = np.full((*shape, 3), 77, np.uint8)
    out = transforms.resize_and_centre_crop(image, preprocessing)
    assert out.shape == (8, 8, 3)
    assert (out == 77).all()


def test_evaluation_transform_takes_the_centre_and_spares_what_fits():
    rows, columns = np.mgrid[0:8, 0:12]
    image = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    np.testing.assert_array_equal(transforms.resize_and_centre_crop(image, SMALL), image[:, 2:10])


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (3, 200), (200, 3), (17, 31)])
def test_random_boxes_stay_in_bounds(shape):
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, top, width, height = transforms._random_box(*shape, rng, (0.08, 1), (3 / 4, 4 / 3))
        assert 0 <= left < left + width <= shape[1]
        assert 0 <= top < top + height <= shape[0]
        if shape == (32, 32):
            assert 0.05 < width * height / 1024 <= 1
            assert 0.6 < width / height < 1.6
    image = np.full((*shape, 3), 9, np.uint8)
    assert (transforms.random_resized_crop(image, SMALL, rng) == 9).all()


def test_random_flip_mirrors_half_of_the_time():
    rng = np.random.default_rng(0)
    image = np.arange(2, dtype=np.uint8).reshape(1, 2, 1).repeat(3, axis=2)
    mirrored = [bool(transforms.random_flip(image, rng)[0, 0, 0]) for _ in range(400)]
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"interpolation": "bicubc"}, "unknown interpolation 'bicubc' .did you mean 'bicubic'"),
        ({"image_size": 0}, "image_size is 0"),
        ({"crop_ratio": 1.2}, "crop_ratio is 1.2"),
    ],
)
def test_preprocessing_refuses(wrong, sentence):
    fine = {"image_size": 8, "mean": (0,) * 3, "std": (1,) * 3}
    assert hash(data.Preprocessing(**fine)) == hash(data.Preprocessing(**fine))
    with pytest.raises(InputError, match=sentence):
        data.Preprocessing(**(fine | wrong))


# ------------------------------------------------------------------------------ pipeline


def train(source, **options) -> TrainBatches:
    return data.train_batches(source, SMALL, **({"batch_size": 4, "seed": 0} | options))


@pytest.fixture
def closing():
    """Registers iterators, and ends their threads after the test."""
    opened: list[TrainBatches] = []

    def register(batches: TrainBatches) -> TrainBatches:
        opened.append(batches)
        return batches

    yield register
    for batches in opened:
        batches.close()


@pytest.mark.parametrize("count", [3, 10, 12])
def test_each_epoch_holds_every_image_once_in_an_order_of_its_own(closing, count):
    batches = closing(train(numbered(count)))
    stream = list(itertools.chain.from_iterable(map(numbers, itertools.islice(batches, count))))
    epochs = [stream[i : i + count] for i in range(0, 4 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 3:
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_have_constant_shapes_and_the_right_labels(closing):
    for batch in itertools.islice(closing(train(numbered(6, side=11), augment="crop_flip")), 5):
        assert batch["image"].shape == (4, 8, 8, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        assert batch["label"].tolist() == [i % 3 for i in numbers(batch)]


def same(first, second) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in ("image", "label"))


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip", "trivial"])
def test_same_seed_same_batches(closing, augment):
    digits = data.load("embedded:digits").train
    one, two, other = (closing(train(digits, augment=augment, seed=seed)) for seed in (0, 0, 1))
    for _ in range(5):
        batch = next(one)
        assert same(batch, next(two))
        assert not same(batch, next(other))


def test_a_row_is_the_same_whoever_reads_it(closing, photo_folder):
    source = data.load(f"folder:{photo_folder}").train
    whole = closing(train(source, augment="crop_flip"))
    parts = [closing(train(source, augment="crop_flip", rows=np.array(r))) for r in ([0, 2], [3])]
    for batch in itertools.islice(whole, 5):
        for part, rows in zip(parts, ([0, 2], [3]), strict=True):
            assert same({key: batch[key][rows] for key in ("image", "label")}, next(part))


def test_resuming_equals_never_having_stopped(closing):
    digits = data.load("embedded:digits", train_size=10).train
    batches = closing(train(digits, augment="crop_flip"))
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    ahead = [next(batches) for _ in range(6)]
    fresh = closing(train(digits, augment="crop_flip"))
    for resumed in (fresh, batches):
        resumed.set_state(state)
        assert all(same(batch, next(resumed)) for batch in ahead)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"batch_size": 5}, "batch_size of the training data was 4 and is now 5"),
        ({"seed": 1}, "seed of the training data was 0 and is now 1"),
        ({"augment": "crop"}, "augment of the training data was none and is now crop"),
        ({"source": numbered(7)}, "images of the training data was 6 and is now 7"),
    ],
)
def test_resuming_another_sequence_is_refused(changed, sentence):
    state = train(numbered(6)).get_state()
    with says(f"cannot resume: {sentence}; restore it or start in a new folder"):
        train(**({"source": numbered(6)} | changed)).set_state(state)


def test_worker_processes_give_the_same_sequence_and_the_same_errors(tmp_path):
    """Runs in its own process, because workers import the main module."""
    fill(tmp_path, {"a": 3, "b": 3})
    for file in (tmp_path / "b").iterdir():
        Image.new("RGBA", (8, 8), (255, 0, 0, 100)).save(file)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing
            import sys
            import numpy as np
            from tljax import data
            from tljax.errors import InputError

            def main():
                source = data.load("embedded:glyphs").train
                size = data.Preprocessing(8, (0,) * 3, (1,) * 3)
                options = {"batch_size": 4, "seed": 0, "augment": "crop"}
                alone = data.train_batches(source, size, **options)
                expected = [next(alone) for _ in range(7)]
                two = data.train_batches(source, size, num_workers=2, **options)
                got = [next(two) for _ in range(4)]
                one = data.train_batches(source, size, num_workers=1, **options)
                one.set_state(two.get_state())
                got += [next(one) for _ in range(3)]
                for child in multiprocessing.active_children():
                    child.kill()
                try:
                    while True:
                        next(two)
                except InputError as error:
                    print(error)
                for batches in (alone, one, two):
                    batches.close()
                for a, b in zip(expected, got, strict=True):
                    np.testing.assert_array_equal(a["image"], b["image"])
                    np.testing.assert_array_equal(a["label"], b["label"])
                folder = data.load("folder:" + sys.argv[1])
                batches = data.train_batches(folder.train, size, num_workers=1, **options)
                next(batches)
                open(sys.argv[1] + "/a/000.png", "w").close()
                open(sys.argv[1] + "/a/001.png", "w").close()
                open(sys.argv[1] + "/a/002.png", "w").close()
                try:
                    while True:
                        next(batches)
                except InputError as error:
                    print(error)
                batches.close()

            if __name__ == "__main__":
                main()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert re.fullmatch(
        r"a process that reads images has died \(exit code -9\); .*num_workers lower, or to 0\n"
        r"cannot read image .*/a/00\d.png: it is truncated or not .*\n",
        done.stdout,
    ), done.stderr
    assert done.returncode == 0
    assert done.stderr.count("of images with transparent pixels, e.g. ") == 1, done.stderr


@pytest.mark.parametrize(
    ("end", "line"),
    [
        ("batches(num_workers=2)", 6),
        ("main()", 6),
        ("if True:\n    main()", 7),
        ("for _ in range(2):\n    batches(\n        num_workers=2,\n    )", 7),
    ],
)
def test_workers_that_would_run_the_script_again_are_refused(end, line, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("\n\ndef main():\n    batches(num_workers=2)\n\n" + end + "\n")
    sentence = rf"num_workers is 2, but line {line} of '.*/script.py' is not under `if __name__"
    with pytest.raises(InputError, match=sentence):
        runpy.run_path(str(script), {"batches": batches}, "__main__")


@pytest.mark.parametrize(
    "end",
    [
        'if __name__ == "__main__":\n    main()',
        'if __name__ == "__main__":\n    for _ in range(2):\n        main()',
        "import multiprocessing\nif multiprocessing.parent_process() is None:\n    main()",
        "batches(num_workers=0)",
    ],
)
def test_workers_of_a_guarded_script_are_allowed(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def main():\n    batches(num_workers=2)\n\n" + end + "\n")
    runpy.run_path(str(script), {"batches": batches}, "__main__")


def batches(num_workers):
    """Makes batches; workers would start with the first one."""
    data.train_batches(numbered(6), SMALL, batch_size=2, seed=0, num_workers=num_workers).close()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_evaluation_never_drops_an_image(count):
    source = numbered(count)
    batches = data.eval_batches(source, SMALL, batch_size=4)
    for _ in range(2):  # it can be iterated again
        seen, labels = [], []
        for batch in batches:
            assert batch["image"].shape == (4, 8, 8, 3)
            assert batch["label"].dtype == np.int32
            assert batch["mask"].dtype == np.float32
            real = batch["mask"] == 1
            seen += np.array(numbers(batch))[real].tolist()
            labels += batch["label"][real].tolist()
            assert (batch["mask"][~real] == 0).all()
        assert seen == list(range(count))
        assert labels == source.labels.tolist()


def test_an_unreadable_image_reaches_the_caller_as_one_sentence(tmp_path, closing):
    source = data.load(fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})).train
    for file in tmp_path.glob("train/*/*.png"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot read image .* it is truncated or not"):
        next(closing(train(source)))
    with pytest.raises(InputError, match=r"cannot read image .* it is truncated or not"):
        list(data.eval_batches(source, SMALL, batch_size=4))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0; set it to 1 or more"),
        ({"augment": "crop_flop"}, "unknown augmentation 'crop_flop' .did you mean 'crop_flip'"),
        ({"crop_area": (0.5, 1.5)}, r"crop_area is \(0.5, 1.5\)"),
    ],
)
def test_impossible_pipelines(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        train(numbered(6), **wrong)
