"""A run's images stay in the splits that they were in when the run began."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import config, run
from tljax import config as config_lib
from tljax import data
from tljax.data import kept
from tljax.errors import InputError
from tljax.experiment.workdir import keep_config

SHORT = [
    *config("from_scratch"),
    *("--config.steps=2", "--config.batch_size=4", "--config.eval_every=2"),
    *("--config.image_size=32", "--config.last_group=layer1_0"),
]


def draw(folder: Path, numbers, seed: int = 0) -> None:
    """Adds one image a number to each of two classes."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in numbers:
            pixels = np.random.default_rng((seed, label, i)).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")


def contents(source) -> set[bytes]:
    base, rows = data.unwrap_subset(source)
    return {base.files[row].read_bytes() for row in rows}


def add_five(folder):
    draw(folder, range(90, 95))
    draw(folder, [0, 1], seed=1)  # others in their place: they are new images, too


def rename_in_reverse(folder):
    for directory in (folder / "cat", folder / "dog"):
        files = sorted(directory.iterdir())
        for file in files:
            file.rename(file.with_suffix(".old"))
        for file, name in zip(files, reversed(files), strict=True):
            file.with_suffix(".old").rename(name)


def delete_one_each(folder):
    for directory in (folder / "cat", folder / "dog"):
        (directory / "03.png").unlink()


def remove_a_class(folder):
    shutil.rmtree(folder / "dog")


def add_a_class(folder):
    shutil.copytree(folder / "dog", folder / "wolf")


def add_a_test_folder(folder):
    for name in ("cat", "dog"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
        (folder / "test" / name).mkdir(parents=True)
        (folder / "train" / name / "00.png").rename(folder / "test" / name / "moved.png")


CHANGES = [
    add_five,
    rename_in_reverse,
    delete_one_each,
    remove_a_class,
    add_a_class,
    add_a_test_folder,
]


@pytest.mark.parametrize("change", CHANGES)
def test_no_image_changes_its_split(change, tmp_path, caplog):
    draw(tmp_path, range(10))
    fields = {"train_size": 10, "seed": 3}
    before = data.load(f"folder:{tmp_path}", **fields)
    was = {split: contents(getattr(before, split)) for split in kept.SPLITS}
    assert [len(images) for images in was.values()] == [10, 4, 4]
    (record,) = json.loads(json.dumps(kept.describe(before)))
    assert record["unused"] == 2
    change(tmp_path)
    after = data.load(f"folder:{tmp_path}", **fields, kept=[record])
    assert after.class_names == ("cat", "dog")
    gone = 0
    for split in kept.SPLITS:
        source = getattr(after, split)
        there = kept.without_missing(source)
        assert (contents(there) if len(there) else set()) <= was[split]
        assert source.labels.tolist() == getattr(before, split).labels.tolist()
        gone += len(source) - len(there)
    assert (gone > 0) == (change in (add_five, delete_one_each, remove_a_class))
    if change is add_five:
        assert f"16 images of 'folder:{tmp_path}' are in no split of the run (2 when" in caplog.text
    if gone:
        assert "lacks images of the run" in caplog.text


@pytest.mark.parametrize("change", [None, add_five, rename_in_reverse, add_a_class])
def test_the_same_images_have_the_same_fingerprint(change, tmp_path):
    draw(tmp_path, range(10))
    before = data.load(f"folder:{tmp_path}")
    record = kept.describe(before)
    fingerprints = [data.fingerprint(getattr(before, split)) for split in kept.SPLITS]
    if change is add_five:
        draw(tmp_path, range(90, 95))
    elif change is not None:
        change(tmp_path)
    after = data.load(f"folder:{tmp_path}", kept=record)
    assert [data.fingerprint(getattr(after, split)) for split in kept.SPLITS] == fingerprints
    assert kept.same_images(after, record)


def copied(folder, count):
    """Training images of ten each of two classes, and the first of them again as test images."""
    draw(folder / "train", range(10))
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir(parents=True)
        for i in range(count):
            shutil.copy(folder / "train" / name / f"{i:02}.png", folder / "test" / name)
    draw(folder / "test", range(90, 95))
    return folder


def copies_said(spec, caplog, **options):
    """What is said of the copies in a data set."""
    caplog.clear()
    dataset = data.load(spec, **options)
    kept.warn_of_copies(dataset, kept.describe(dataset))
    return [message for message in caplog.messages if "figures" in message or "labels" in message]


def test_test_images_that_are_training_images_are_counted(tmp_path, caplog):
    spec = f"folder:{copied(tmp_path / 'photos', 3)}"
    (said,) = copies_said(spec, caplog, val_fraction=0)
    assert f"6 of the 16 test images of {spec} are byte-identical to training images" in said
    assert "e.g. the test image 'cat/00.png' to the training image 'cat/00.png'" in said
    assert not copies_said(f"folder:{tmp_path / 'photos' / 'train'}", caplog)


def test_a_run_that_begins_says_so_and_one_that_resumes_does_not(tmp_path, caplog):
    dataset = data.load(f"folder:{copied(tmp_path / 'photos', 2)}", val_fraction=0)
    (tmp_path / "run").mkdir()
    task = data.Task(dataset.name, dataset.class_names)
    for begun, said in ((dataset, 1), (None, 0)):
        caplog.clear()
        keep_config(tmp_path / "run", (task,), config_lib.base(), begun)
        assert caplog.text.count("4 of the 14 test images") == said
    assert (tmp_path / "run" / "splits.json").is_file()


def test_copies_across_splits_that_are_made_are_counted(tmp_path, caplog):
    draw(tmp_path / "photos", range(10))
    for name in ("cat", "dog"):
        for i in range(10):
            folder = tmp_path / "photos" / name
            shutil.copy(folder / f"{i:02}.png", folder / f"{i:02} (copy).png")
    said = copies_said(f"folder:{tmp_path / 'photos'}", caplog, val_fraction=0.25)
    dataset = data.load(f"folder:{tmp_path / 'photos'}", val_fraction=0.25)
    train, val, test = map(contents, (dataset.train, dataset.val, dataset.test))
    for shared, split, other in (
        (train & val, "validation", "training"),
        (train & test, "test", "training"),
        (val & test, "test", "validation"),
    ):
        found = [message for message in said if f"{split} images of" in message]
        assert any(f"byte-identical to {other} images" in message for message in found) == bool(
            shared
        )
    assert train & test, "else nothing is tried"


def test_an_image_with_two_labels_is_warned_of(tmp_path, caplog):
    draw(tmp_path / "photos", range(10))
    shutil.copy(tmp_path / "photos/cat/03.png", tmp_path / "photos/dog/also.png")
    said = copies_said(f"folder:{tmp_path / 'photos'}", caplog)
    twice = [message for message in said if "different labels" in message]
    assert len(twice) == 1
    assert twice[0].startswith(f"1 images of folder:{tmp_path / 'photos'} are there more than once")
    assert {"'cat/03.png' (cat)", "'dog/also.png' (dog)"} <= set(
        re.findall(r"'[^']+' \(\w+\)", twice[0])
    )


def test_a_thing_may_be_measured_twice_and_broken_links_are_no_copies(tmp_path, caplog):
    draw(tmp_path / "photos", range(20))
    files = sorted((tmp_path / "photos").rglob("*.png"))
    rows = [f"{file},{number / 7}" for number, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("\n".join(["path,x", *rows]))
    shutil.copy(files[0], files[1])
    assert copies_said(f"csv:{tmp_path / 'table.csv'}?numbers=x", caplog, train_size=9) == []
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name / "gone.png").symlink_to(tmp_path / "gone")
    shutil.copy(files[2], files[1])
    assert "labels" not in "".join(copies_said(f"folder:{tmp_path / 'photos'}", caplog))


def test_joined_data_keep_the_splits_of_each(tmp_path):
    draw(tmp_path, range(10))
    spec = f"embedded:digits,folder:{tmp_path}"
    before = data.load(spec, train_size=8)
    record = kept.describe(before)
    fingerprints = [data.fingerprint(getattr(before, split)) for split in kept.SPLITS]
    rename_in_reverse(tmp_path)
    after = data.load(spec, train_size=8, kept=record)
    assert [data.fingerprint(getattr(after, split)) for split in kept.SPLITS] == fingerprints


def test_other_images_than_in_a_folder_are_refused(tmp_path):
    record = kept.describe(data.load("embedded:digits", train_size=50, seed=0))
    data.load("embedded:digits", train_size=50, seed=0, kept=record)
    with pytest.raises(InputError, match="the train and val images of 'embedded:digits' are not"):
        data.load("embedded:digits", train_size=50, seed=1, kept=record)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on ten images a class, given by a relative path, and its working directory."""
    place = tmp_path_factory.mktemp("a")
    draw(place / "photos", range(10))
    from tljax import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        argv = ["train", *SHORT, "--workdir", "run", "--config.data=folder:photos"]
        assert cli.main(argv) == 0
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy of the run and its data at the same path, so that a test may change them."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    yield trained
    shutil.rmtree(trained)
    shutil.copytree(copy, trained)


def accuracy(out: str) -> str:
    return re.search(r"accuracy (\S+)", out)[1]


@pytest.mark.parametrize("change", [None, add_five, rename_in_reverse, delete_one_each])
def test_evaluate_reads_the_test_images_of_the_run(change, place, capsys):
    if change is add_five:
        draw(place / "photos", range(90, 95))
    elif change is not None:
        change(place / "photos")
    result = json.loads((place / "run" / "result.json").read_text())
    code, out, err = run(capsys, "evaluate", "--workdir", place / "run")
    assert code == 0, err
    if change is not delete_one_each:
        assert accuracy(out) == f"{result['test_accuracy']:.4f}"
        assert "on 4 images" in out
    assert ("10 images of" in err and "in no split" in err) == (change is add_five)
    assert ("lacks images of the run" in err) == (change is delete_one_each)


def test_a_path_means_what_it_meant_to_the_run(place, tmp_path, monkeypatch, capsys):
    draw(tmp_path / "photos", range(10), seed=5)  # another project's images at this path
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "evaluate", "--workdir", place / "run")
    assert code == 0, err
    assert f"folder:{place}/photos" in out
    again = ["train", *SHORT, "--workdir", place / "run"]
    code, _, err = run(capsys, *again, "--config.data=folder:photos")
    assert code == 2
    assert "data was folder:" in err


@pytest.mark.parametrize("spelling", ["photos/", "./photos", "{}/photos", "../{.name}/photos"])
def test_other_spellings_of_a_path_resume(spelling, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    where = spelling.format(place)
    code, _, err = run(capsys, "train", *SHORT, "--workdir", "run", f"--config.data=folder:{where}")
    assert code == 0, err
    assert "holds a run that is done" in err


def test_data_that_moved_is_known_by_its_images(place, capsys):
    os.rename(place / "photos", place / "elsewhere")
    code, _, err = run(capsys, "evaluate", "--workdir", place / "run")
    assert code == 2
    assert "if the data has moved, name its new place" in err
    moved = ["train", *SHORT, "--workdir", place / "run", f"--config.data=folder:{place}/elsewhere"]
    code, _, err = run(capsys, *moved)
    assert code == 0, err
    assert f"it is 'folder:{place}/elsewhere' now" in err
    other = ["--data", f"folder:{place}/elsewhere"]
    code, out, err = run(capsys, "evaluate", "--workdir", place / "run", *other)
    assert code == 0, err
    assert "on 4 images" in out
    draw(place / "elsewhere", [7], seed=1)
    code, _, err = run(capsys, *moved)
    assert code == 2


def test_images_of_the_run_do_not_test_it_as_other_data(place, tmp_path, capsys):
    """Of a folder that holds the run's images among others, those it was fitted on are left out."""
    shutil.copytree(place / "photos", tmp_path / "more" / "test")
    draw(tmp_path / "more" / "test", range(90, 95))
    other = ["--data", f"folder:{tmp_path}/more"]
    code, out, err = run(capsys, "evaluate", "--workdir", place / "run", *other)
    assert code == 0, err
    assert "16 of the 30 test images" in err
    assert "on 14 images" in out


@pytest.mark.parametrize("inside", ["", "runs/1", "cat/run"])
def test_a_workdir_within_the_images_is_refused(inside, tmp_path, capsys):
    draw(tmp_path / "photos", range(4))
    before = sorted(tmp_path.rglob("*"))
    argv = ["--config.data=folder:" + str(tmp_path / "photos")]
    for command in ("train", "probe"):
        workdir = tmp_path / "photos" / inside
        code, _, err = run(capsys, command, *SHORT, *argv, "--workdir", workdir)
        assert code == 2
        assert "is inside the data folder" in err
    assert sorted(tmp_path.rglob("*")) == before
