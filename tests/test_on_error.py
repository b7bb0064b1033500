"""Unreadable images: a run stops at the first, or skips all of them and reports them."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import run
from tljax import data as data_lib
from tljax import experiment
from tljax.data import Preprocessing
from tljax.data.listing import find_images
from tljax.errors import InputError

PREPROCESSING = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def damaged(tmp_path):
    """Two classes in train, val and test, with two unreadable images in each split."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split in ("train", "val", "test"):
        for label, name in enumerate(("cats", "dogs")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(7):
                pixels = rng.integers(0, 128, (40, 48, 3), np.uint8) + np.uint8(127 * label)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            (folder / "bad.png").write_bytes(b"no image" if label else b"")
    return root


def without_bad(damaged, tmp_path):
    clean = shutil.copytree(damaged, tmp_path / "clean")
    for path in clean.rglob("bad.png"):
        path.unlink()
    return clean


def names(paths):
    return {"/".join(str(path).split("/")[-3:]) for path in paths}


ALL_BAD = {f"{s}/{c}/bad.png" for s in ("train", "val", "test") for c in ("cats", "dogs")}


def test_a_run_leaves_them_out_and_names_them(damaged, tiny_config, tmp_path, caplog):
    config = tiny_config(data=f"folder:{damaged}", train_size=None, on_error="skip", steps=6)
    result = experiment.run(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert names(written["skipped_images"]) == ALL_BAD
    assert "skipped 6 images that cannot be read" in caplog.text
    assert result.summary["test_size"] == 14
    assert result.summary["naive_accuracy"] == 0.5
    (tmp_path / "run" / "result.json").unlink()
    again = experiment.run(config, tmp_path / "run")
    assert again.summary | {"wall_seconds": 0} == result.summary | {"wall_seconds": 0}


def test_the_numbers_are_those_of_the_images_that_can_be_read(damaged, tiny_config, tmp_path):
    clean = without_bad(damaged, tmp_path)
    config = tiny_config(data=f"folder:{clean}", train_size=None, steps=4)
    experiment.run(config, tmp_path / "run")
    trained = experiment.read_workdir(tmp_path / "run")
    right = experiment.evaluate_trained(trained, None, "test").evaluation
    config_path = tmp_path / "run" / "config.json"
    kept = json.loads(config_path.read_text()) | {"on_error": "skip"}
    config_path.write_text(json.dumps(kept))
    trained = experiment.read_workdir(tmp_path / "run")
    skipping = experiment.evaluate_trained(trained, f"folder:{damaged}", "test").evaluation
    assert skipping.count == right.count == 14
    assert skipping.accuracy == right.accuracy
    assert skipping.loss == pytest.approx(right.loss, rel=1e-6)
    assert names(skipping.skipped) == {"test/cats/bad.png", "test/dogs/bad.png"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_batches_do_not_depend_on_who_reads(damaged, num_workers):
    source = data_lib.load(f"folder:{damaged}").train
    options = {"batch_size": 5, "seed": 1, "augment": "crop", "on_error": "skip"}
    plain = data_lib.train_batches(source, PREPROCESSING, **options)
    other = data_lib.train_batches(source, PREPROCESSING, **options, num_workers=num_workers)
    for _ in range(8):
        expected, batch = next(plain), next(other)
        assert batch.keys() == {"image", "label"}
        np.testing.assert_array_equal(batch["image"], expected["image"])
        np.testing.assert_array_equal(batch["label"], expected["label"])
        assert other.skipped == plain.skipped
    assert names(plain.skipped) == {"train/cats/bad.png", "train/dogs/bad.png"}
    resumed = data_lib.train_batches(source, PREPROCESSING, **options)
    resumed.set_state(json.loads(json.dumps(plain.get_state())))
    assert resumed.skipped == plain.skipped
    for batches in (plain, other, resumed):
        batches.close()


def test_if_none_can_be_read_that_is_said(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.png").write_bytes(b"")
    source = data_lib.load(f"folder:{tmp_path}").train
    batches = data_lib.train_batches(source, PREPROCESSING, batch_size=2, seed=0, on_error="skip")
    with pytest.raises(InputError, match=r"none of the \d+ training images can be read"):
        next(batches)
    batches.close()


def test_predict_leaves_them_out(damaged, tiny_config, tmp_path, capsys):
    config = tiny_config(data=f"folder:{damaged}", train_size=None, on_error="skip", steps=2)
    experiment.run(config, tmp_path / "run")
    argv = ["predict", "--workdir", tmp_path / "run", damaged / "test"]
    code, _, err = run(capsys, *argv, "--output", tmp_path / "p.csv")
    assert code == 2
    assert "bad.png" in err
    assert not (tmp_path / "p.csv").exists()
    code, _, err = run(capsys, *argv, "--output", tmp_path / "p.csv", "--on_error", "skip")
    assert code == 0
    assert "tljax: warning: skipped 2 images that cannot be read" in err
    rows = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert len(rows) == 14
    assert not any("bad.png" in row for row in rows)


# --- odd folders ------------------------------------------------------------------------------


def test_links_in_a_circle_end_and_links_elsewhere_are_followed(damaged, tmp_path):
    root = tmp_path / "links"
    root.mkdir()
    (root / "cats").symlink_to(damaged / "train" / "cats")
    (root / "round").symlink_to(root)
    (root / "cats2").symlink_to(root / "cats")
    os.mkfifo(root / "pipe.png")
    (root / "nowhere.png").symlink_to("nothing")
    found = [path.relative_to(root).as_posix() for path in find_images(root)]
    assert found == [*(f"cats/{i}.png" for i in range(7)), "cats/bad.png", "nowhere.png"]


def test_a_data_set_of_links_is_a_data_set(damaged, tmp_path):
    clean = without_bad(damaged, tmp_path)
    root = tmp_path / "links"
    root.mkdir()
    for name in ("cats", "dogs"):
        (root / name).symlink_to(clean / "train" / name)
    linked = data_lib.load(f"folder:{root}").train
    assert {linked[i]["image"].shape for i in range(len(linked))} == {(40, 48, 3)}


def test_the_data_is_known_by_its_content_and_not_by_its_place(damaged, tmp_path):
    def fingerprint(root):
        return data_lib.fingerprint(data_lib.load(f"folder:{root}").train)

    clean = without_bad(damaged, tmp_path)
    first = fingerprint(clean)
    copy = shutil.copytree(clean, tmp_path / "copy")
    os.utime(copy / "train" / "cats" / "0.png", (0, 0))
    assert fingerprint(copy) == first
    content = bytearray((copy / "train" / "cats" / "0.png").read_bytes())
    content[-20] ^= 1
    (copy / "train" / "cats" / "0.png").write_bytes(content)
    assert fingerprint(copy) != first
    renamed = shutil.copytree(clean, tmp_path / "renamed")
    (renamed / "train" / "cats" / "0.png").rename(renamed / "train" / "cats" / "00.png")
    assert fingerprint(renamed) != first


def test_a_subset_and_its_order_are_part_of_the_data():
    digits = data_lib.load("embedded:digits").train
    prints = [
        data_lib.fingerprint(data_lib.Subset(digits, indices))
        for indices in ([0, 1, 2], [0, 2, 1], [0, 1], [0, 1, 2])
    ]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_names_of_all_kinds_are_read_and_shown_on_one_line(tiny_config, tmp_path, capsys):
    strange = ["<img src=x onerror=alert(1)>", "a\nb\x1b[31m", "dots..", "quote'\"", "bytes\udcff"]
    rng = np.random.default_rng(0)
    for name in strange:
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}\n.png")
    config = tiny_config(data=f"folder:{tmp_path / 'photos'}", train_size=None, steps=2)
    experiment.run(config, tmp_path / "run")
    code, out, err = run(capsys, "predict", "--workdir", tmp_path / "run", tmp_path / "photos")
    assert code == 0, err
    assert len(out.splitlines()) == 1 + 4 * len(strange)
    assert "\x1b" not in out
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path / "run")
    assert code == 0, err
    argv = ["export", "--workdir", tmp_path / "run", "--format", "timm"]
    code, _, err = run(capsys, *argv, "--output", tmp_path / "run.safetensors")
    assert code == 0, err
    card = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert "\x1b" not in card
