"""Folds: every image is out of fold once, groups stay together, and the ensemble is the mean."""

import csv
import json
import logging
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.soak.campaign import compare
from tests.test_cli import run
from tests.test_sweep import made_up
from tljax import cli, data, experiment, models
from tljax import config as config_lib
from tljax.analysis.results import read_runs, select
from tljax.analysis.statistics import mean_interval
from tljax.commands.folds.out_of_fold import DoneFold, write_answers
from tljax.commands.folds.table import print_folds, summarise
from tljax.data import Task
from tljax.data.folder import FolderSource
from tljax.data.joint import concatenate
from tljax.errors import InputError
from tljax.experiment import Folds
from tljax.experiment.trained import match_classes
from tljax.runs.answers import Outputs, read_answers
from tljax.runs.proportions import clopper_pearson
from tljax.training.problems import problem_of

PAGE = """
from tljax.config import base

def get_config(arg=None):
    config = base()
    config.update({
        "scenario": "from_scratch", "augment": "crop", "batch_size": 8, "last_group": "layer1_0",
        "image_size": 16, "steps": 12, "eval_every": 6, "checkpoint_every": 3, "lr": 0.05,
        "on_error": "skip", "val_fraction": 0.3,
    })
    return config
"""
ANIMALS = 16  # of two classes; four photos of each, of which the last four animals are for testing


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of photos of animals, which are the groups; its first 48 rows are for training."""
    root = tmp_path_factory.mktemp("animals")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4 * ANIMALS):
        animal = number // 4
        is_bright = (animal + (number % 7 == 0)) % 2  # dogs, and some cats, which are mistaken
        pixels = rng.integers(0, 200, (24, 20, 3)) + 50 * is_bright
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        label, split = ("cat", "dog")[animal % 2], "train" if number < 48 else "test"
        rows.append({"path": f"{number}.png", "label": label, "group": animal, "split": split})
    write(root / "own_test.csv", rows)
    rows = [{k: v for k, v in row.items() if k != "split"} for row in rows[:48]]
    write(root / "pooled.csv", rows)
    write(root / "ungrouped.csv", [{k: v for k, v in row.items() if k != "group"} for row in rows])
    return root


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def names(source):
    base, rows = data.unwrap_subset(source)
    return [base.names[row] for row in rows]


def animal(name):
    return int(name.removesuffix(".png")) // 4


# --- the images of each fold ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own_test", "pooled", "ungrouped"])
def test_every_image_is_out_of_fold_once_and_own_test_images_never(name, table):
    held = Counter()
    for fold in range(3):
        dataset = data.load(f"csv:{table / name}.csv", folds=3, fold=fold, val_fraction=0.25)
        splits = [names(getattr(dataset, split)) for split in ("train", "val", "test")]
        everything = [*splits[0], *splits[1], *splits[2]]
        assert sorted(everything) == sorted(f"{i}.png" for i in range(48))
        held.update(splits[2])
        assert len(splits[2]) == 16
        assert np.bincount(dataset.test.labels).tolist() == [8, 8]
        if name != "ungrouped":
            train, val, test = ({animal(one) for one in split} for split in splits)
            assert not train & val
            assert not (train | val) & test
    assert set(held.values()) == {1}
    assert len(held) == 48


def test_folds_differ_by_one_image_at_most_in_all_and_of_each_class():
    folds = [data.load("embedded:digits", folds=5, fold=fold).test for fold in range(5)]
    assert sorted(map(len, folds)) == [259, 259, 259, 260, 260]
    counts = np.array([np.bincount(fold.labels, minlength=10) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 1).all()


def test_validation_images_of_the_data_are_in_folds_too():
    whole = data.load("embedded:textures")
    folds = [data.load("embedded:textures", folds=2, fold=fold) for fold in range(2)]
    assert sum(len(fold.test) for fold in folds) == len(whole.train) + len(whole.val)
    for fold in folds:
        assert len(fold.train) + len(fold.val) + len(fold.test) == len(whole.train) + len(whole.val)
        assert fold.test[0]["image"].shape == (32, 32, 3)
    assert data.fingerprint(folds[0].test) != data.fingerprint(folds[1].test)


def test_groups_and_weights_of_several_sources_stay_with_their_images(table):
    files = [table / f"{number}.png" for number in range(4)]
    a = FolderSource(files[:2], [0, 1], groups=np.array([5, 5]))
    b = FolderSource(files[2:], [1, 1], groups=np.array([5, 6]), weights=np.float32([2, 3]))
    pixels = data.as_source((np.zeros((1, 8, 8, 3), np.uint8), [1]))
    for sources in ([a, data.Subset(b, [1, 0])], [a, data.Subset(b, [1, 0]), pixels]):
        whole, rows = concatenate(sources)
        both = data.Subset(whole, np.concatenate(rows))
        assert both.labels.tolist() == [0, 1, 1, 1, 1][: len(both)]
        assert len(set(data.groups_of(both)[:2].tolist())) == 1
        assert len(set(data.groups_of(both).tolist())) == len(both) - 1
        assert [both[i].get("weight") for i in range(4)] == [1, 1, 3, 2]
        np.testing.assert_array_equal(both[2]["image"], b[1]["image"])


def test_images_of_two_splits_with_one_name_are_two_images(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{number}.png")
    folds = [data.load(f"folder:{tmp_path}", folds=2, fold=fold) for fold in range(2)]
    found = [name for fold in folds for name in names(fold.test)]
    inside = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)]
    assert sorted(found) == sorted([*inside, *(f"val/{name}" for name in inside)])


def test_the_seed_draws_the_folds(table):
    def drawn(seed):
        spec = f"csv:{table / 'ungrouped.csv'}"
        return names(data.load(spec, folds=3, fold=0, seed=seed, val_fraction=0).test)

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@pytest.mark.parametrize(
    ("numbers", "fragment"),
    [
        ((1, 0), "folds is 1; set it to 2 or more"),
        ((3, 3), "fold is 3, but folds is 3; set it from 0 to 2"),
        ((3, -1), "fold is -1, but folds is 3"),
        ((None, 0), "fold is 0, but folds is not set"),
        ((3, None), "run every fold with `tljax folds`"),
        ((7, 0), "there are 6 groups"),
        ((13, 0), "class 'cat' has 12 images; set folds to 12 or less"),
    ],
)
def test_numbers_that_do_not_fit(numbers, fragment, table, tmp_path):
    rows = read(table / "pooled.csv")[:24]
    for row in rows:
        row["path"] = str(table / row["path"])
    write(tmp_path / "few.csv", rows)
    with pytest.raises(InputError, match=re.escape(fragment)):
        data.load(f"csv:{tmp_path / 'few.csv'}", folds=numbers[0], fold=numbers[1])


def test_several_data_sets_have_no_folds():
    with pytest.raises(InputError, match="names 2 data sets; name one"):
        data.load("embedded:digits,embedded:textures", folds=2, fold=0)


def test_a_class_that_is_one_group_cannot_be_trained_on(table, tmp_path):
    rows = read(table / "pooled.csv")
    for row in rows:
        row["path"] = str(table / row["path"])
        row["label"] = "owl" if row["group"] == "3" else row["label"]
    write(tmp_path / "owl.csv", rows)
    with pytest.raises(InputError, match="all images of 'owl' are of one group"):
        data.load(f"csv:{tmp_path / 'owl.csv'}", folds=3, fold=0)


# --- the command ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.py"
    path.write_text(PAGE)
    return path


def argv(page, table, workdir, *more):
    spec = f"--config.data=csv:{table / 'own_test.csv'}"
    return ["folds", "--config", page, "--workdir", workdir, "--folds", 3, spec, *more]


@pytest.fixture(scope="module")
def whole(page, table, tmp_path_factory):
    """A finished workdir of three folds."""
    workdir = tmp_path_factory.mktemp("folds") / "whole"
    assert cli.main([str(word) for word in argv(page, table, workdir)]) == 0
    return workdir


FOLDS = ("fold_0", "fold_1", "fold_2")


def same(a, b):
    answers = [(workdir / "out_of_fold.csv").read_bytes() for workdir in (a, b)]
    summaries = [json.loads((workdir / "folds.json").read_text()) for workdir in (a, b)]
    return (
        answers[0] == answers[1]
        and summaries[0] == summaries[1]
        and not [difference for fold in FOLDS for difference in compare(a / fold, b / fold)]
    )


def test_the_table_of_answers_has_each_image_once_as_its_fold_answered(whole):
    rows = read(whole / "out_of_fold.csv")
    assert list(rows[0]) == ["image", "fold", "label", "predicted", "confidence", "cat", "dog"]
    assert sorted(row["image"] for row in rows) == sorted(f"{i}.png" for i in range(48))
    for row in rows:
        assert row["label"] == ("cat", "dog")[animal(row["image"]) % 2]
        assert float(row["confidence"]) == pytest.approx(float(row[row["predicted"]]), abs=1e-3)
    for number, fold in enumerate(FOLDS):
        own = [row for row in rows if row["fold"] == str(number)]
        answers = read_answers(whole / fold)
        assert [row["predicted"] == "dog" for row in own] == answers.predicted.astype(bool).tolist()
        (kept,) = json.loads((whole / fold / "splits.json").read_text())
        assert [row["image"] for row in own] == [name for name, *_ in kept["splits"]["test"]]


def test_the_summary_follows_from_the_results_and_is_printed(whole, page, table, capsys):
    results = [json.loads((whole / fold / "result.json").read_text()) for fold in FOLDS]
    summary = json.loads((whole / "folds.json").read_text())
    accuracies = [result["test_accuracy"] for result in results]
    mean = mean_interval(accuracies)
    found = summary["scores"]["test_accuracy"]
    assert found == {"values": accuracies, "mean": mean.mean, "interval": [mean.low, mean.high]}
    rows = read(whole / "out_of_fold.csv")
    right = sum(row["label"] == row["predicted"] for row in rows)
    pooled = summary["out_of_fold"]
    assert pooled["accuracy"] == right / 48
    assert pooled["interval"] == list(clopper_pearson(right, 48))
    recalls = [
        np.mean([row["predicted"] == name for row in rows if row["label"] == name])
        for name in ("cat", "dog")
    ]
    assert pooled["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert summary["without_answer"] == {"unreadable": 0, "fold_not_done": 0}
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("result.json")}
    code, out, err = run(capsys, *argv(page, table, whole))
    assert (code, err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "3 were done before" in out
    low, high = pooled["interval"]
    assert f"out of fold: accuracy {right / 48:.4f}" in out
    assert f"exact 95 % interval {low:.4f} to {high:.4f}; naive baseline" in out
    assert f"{mean.mean:.3f} ±{mean.half_width:.3f}" in out
    assert "images that come in groups" in out.replace("\n", " ")


class Interrupter(logging.Handler):
    """Sends Ctrl-C when training enters a phase for the n-th time."""

    def __init__(self, phase, number):
        super().__init__(logging.DEBUG)
        self._phase, self._left = phase, number

    def emit(self, record):
        if record.getMessage().startswith(f"phase {self._phase}"):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_and_in_shards_it_ends_the_same(whole, page, table, tmp_path, capsys):
    logger, handler = logging.getLogger("tljax"), Interrupter("step", 18)  # in the second fold
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        code, _, _ = run(capsys, *argv(page, table, tmp_path / "w"))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert code == 130
    assert (tmp_path / "w" / "fold_0" / "result.json").exists()
    assert not (tmp_path / "w" / "fold_1" / "result.json").exists()
    assert (tmp_path / "w" / "fold_1" / "checkpoints").exists()
    code, _, err = run(capsys, *argv(page, table, tmp_path / "w", "--shard", "0/2"))
    assert code == 0
    assert "16 of 48 images have no answer: 16 are in fold_1, not done yet" in err
    assert len(read(tmp_path / "w" / "out_of_fold.csv")) == 32
    code, _, err = run(capsys, "predict", "--workdir", tmp_path / "w", table / "0.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "1 of the 3 folds" in err
    assert run(capsys, *argv(page, table, tmp_path / "w", "--shard", "1/2"))[0] == 0
    assert same(whole, tmp_path / "w")


def test_images_that_cannot_be_read_have_no_answer_and_are_counted(page, table, tmp_path, capsys):
    photos = shutil.copytree(table, tmp_path / "photos")
    (photos / "5.png").write_bytes((photos / "5.png").read_bytes()[:60])
    code, _, err = run(capsys, *argv(page, photos, tmp_path / "w"))
    assert code == 0
    assert "1 of 48 images have no answer: 1 could not be read" in err
    assert "5.png" not in {row["image"] for row in read(tmp_path / "w" / "out_of_fold.csv")}


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (["--folds", "2"], "holds 3 folds, and 2 are asked for"),
        (["--folds", "1"], "folds is 1; set it from 2"),
        (["--folds", "999999999999"], "set it from 2 to 1,000"),
        (["--config.data_seed=1"], "were drawn with data_seed 0, which is 1 now"),
        (["--config.steps=5"], "in the run fold_0: "),
        (["--config.fold=1"], "`tljax folds` runs every fold"),
    ],
)
def test_other_folds_are_refused_and_nothing_is_touched(more, fragment, whole, page, table, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    code, out, err = run(capsys, *argv(page, table, whole), *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert fragment in err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_folds_that_the_data_cannot_fill_are_refused_before_anything_is_written(
    page, table, tmp_path, capsys
):
    code, _, err = run(capsys, *argv(page, table, tmp_path / "w"), "--folds", "13")
    assert code == 2
    assert "there are 12 groups of images, which stay together; set folds to 12 or less" in err
    assert not (tmp_path / "w").exists()


def test_a_workdir_of_one_run_takes_no_folds(whole, page, table, tmp_path, capsys):
    workdir = shutil.copytree(whole / "fold_0", tmp_path / "run")
    code, _, err = run(capsys, *argv(page, table, workdir))
    assert code == 2
    assert "is the workdir of one run" in err


def test_folds_that_have_not_begun_refuse_other_images(whole, page, table, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "w")
    shutil.rmtree(workdir / "fold_1")
    content = (table / "7.png").read_bytes()
    try:
        Image.new("RGB", (20, 20)).save(table / "7.png")
        code, _, err = run(capsys, *argv(page, table, workdir))
    finally:
        (table / "7.png").write_bytes(content)
    assert code == 2
    assert "are not those that the folds began with" in err
    assert not (workdir / "fold_1").exists()
    assert run(capsys, *argv(page, table, workdir))[0] == 0
    assert same(whole, workdir)


def test_data_that_has_moved_has_the_same_folds(whole, page, table, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "w")
    photos = shutil.copytree(table, tmp_path / "photos")
    code, _, err = run(capsys, *argv(page, photos, workdir))
    assert code == 0
    assert "the data was" in err
    assert same(whole, workdir)


def test_a_resumed_fold_keeps_its_images_when_others_are_added(whole, table, tmp_path):
    photos = shutil.copytree(table, tmp_path / "photos")
    rows = read(photos / "own_test.csv")
    for number in range(4):
        name = f"new {number}.png"
        Image.new("RGB", (20, 20), (number, 0, 0)).save(photos / name)
        rows.insert(0, {"path": name, "label": "cat", "group": f"new {number}", "split": "train"})
    write(photos / "own_test.csv", rows)
    config = experiment.read_config(whole / "fold_1")
    config.data = f"csv:{photos / 'own_test.csv'}"
    splits = experiment.kept_splits(whole / "fold_1")
    dataset = experiment.load_data(config, splits)
    for split in ("train", "val", "test"):
        kept = [name for name, *_ in splits[0]["splits"][split]]
        assert names(getattr(dataset, split)) == kept
    assert names(experiment.load_data(config).test) != names(dataset.test), "or this tests nothing"


# --- the ensemble -----------------------------------------------------------------------------


def probabilities(path):
    return np.array([[float(row[name]) for name in ("cat", "dog")] for row in read(path)])


def test_the_ensemble_predicts_the_mean_of_its_members(whole, table, tmp_path, capsys):
    photos = [table / f"{number}.png" for number in range(44, 52)]
    answers = []
    for number, workdir in enumerate((whole, *(whole / fold for fold in FOLDS))):
        output = tmp_path / f"{number}.csv"
        code, _, err = run(capsys, "predict", "--workdir", workdir, *photos, "--output", output)
        assert code == 0, err
        answers.append(probabilities(output))
    np.testing.assert_allclose(answers[0], np.mean(answers[1:], axis=0), atol=2e-6)
    assert np.abs(answers[1] - answers[2]).max() > 1e-4, "or this tests nothing"
    rows = read(tmp_path / "0.csv")
    assert [row["prediction"] for row in rows] == [
        ("cat", "dog")[label] for label in answers[0].argmax(1)
    ]


def test_the_ensemble_is_tested_on_the_own_test_images(whole, table, tmp_path, capsys):
    output = tmp_path / "p.csv"
    photos = [table / f"{number}.png" for number in range(48, 64)]
    assert run(capsys, "predict", "--workdir", whole, *photos, "--output", output)[0] == 0
    found = probabilities(output)
    labels = np.arange(48, 64) // 4 % 2
    accuracy = (found.argmax(1) == labels).mean()
    loss = -np.log(found[np.arange(16), labels]).mean()
    code, out, err = run(capsys, "evaluate", "--workdir", whole)
    assert (code, err) == (0, "")
    assert out.startswith(f"accuracy {accuracy:.4f} (balanced accuracy {accuracy:.4f}, macro F1 ")
    assert f"), loss {loss:.4f} on" in out
    assert f" 16 images of csv:{table / 'own_test.csv'} (test); naive baseline 0.5000" in out


def test_other_data_is_cleared_of_images_that_a_fold_has_seen(whole, table, tmp_path, capsys):
    rows = read(table / "own_test.csv")
    for number, row in enumerate(rows):
        row["path"] = str(table / row["path"])
        row["split"] = "test" if number % 2 else "train"
        row["group"] = number
    write(tmp_path / "other.csv", rows)
    spec = f"csv:{tmp_path / 'other.csv'}"
    code, out, err = run(capsys, "evaluate", "--workdir", whole, "--data", spec)
    assert code == 0
    assert "24 of the 32 test images" in err
    assert " on 8 images of " in out


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["evaluate", "--split", "val"], "each fold of"),
        (["evaluate", "--data", "embedded:digits", "--refit_head"], "holds several folds"),
        (["evaluate", "--task", "cats"], "there is no task 'cats'"),
        (["evaluate", "--data", "embedded:digits"], "give data of the same classes"),
        (["train", "--config", "fine_tune"], "choose another --workdir"),
        (["export", "--format", "timm", "--output", "x.safetensors"], "give one of them, e.g."),
    ],
)
def test_what_the_ensemble_cannot(words, fragment, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words, "--workdir", whole)
    assert (code, err.count("\n")) == (2, 1), err
    assert fragment in err


def test_the_ensemble_is_no_source_of_weights(whole, page, tmp_path, capsys):
    words = ["train", "--config", page, "--config.scenario=fine_tune", "--workdir", tmp_path / "w"]
    code, _, err = run(capsys, *words, f"--config.init_from={whole}")
    assert (code, err.count("\n")) == (2, 1)
    assert "give one of them, e.g." in err


def test_without_own_test_images_the_ensemble_has_none(page, table, tmp_path, capsys):
    spec = f"--config.data=csv:{table / 'pooled.csv'}"
    words = ["folds", "--config", page, "--workdir", tmp_path / "w", "--folds", 2, spec]
    assert run(capsys, *words)[0] == 0
    assert len(read(tmp_path / "w" / "out_of_fold.csv")) == 48
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path / "w")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no test images of its own" in err


# --- several labels an image, and numbers ------------------------------------------------------


def trained(kind, seed, result):
    """A network with random weights and, of numbers, a scale of its own."""
    names, scale = ("a", "b"), ((5.0, -1.0 - seed), (2.0 + seed, 3.0))
    task = Task("t", names, kind, scale if kind == "regression" else None)
    config = config_lib.base()
    config.update(last_group="layer1_0", image_size=16, batch_size=4, scenario="from_scratch")
    exp = experiment.build(config, (task,))
    variables = models.init(exp.model, jax.random.key(seed), 16)
    head = jax.random.normal(jax.random.key(seed + 9), variables["params"]["head"]["kernel"].shape)
    variables["params"]["head"]["kernel"] = head
    return experiment.Trained(Path("none"), exp, variables, result)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_the_ensemble_of_other_kinds_is_the_mean_in_units(kind):
    members = [trained(kind, seed, {"thresholds": [0.2, 0.4 + seed / 5]}) for seed in (0, 1)]
    pixels = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    rng = np.random.default_rng(1)
    numbers = rng.normal(5, 2, (9, 2)).astype(np.float32)
    labels = numbers if kind == "regression" else (numbers > 5).astype(np.uint8)
    source = data.as_source((pixels, labels))
    alone = [np.stack(list(experiment.Ensemble((m,)).predict(source, 4))) for m in members]
    both = experiment.Ensemble(tuple(members))
    together = np.stack(list(both.predict(source, 4)))
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.01, "or this tests nothing"
    found = both.evaluate(source)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.metrics == pytest.approx(both.problem.scores(labels, together), rel=1e-4)
    if kind == "multi_label":
        assert both.problem.thresholds == pytest.approx((0.2, 0.5))
        p = together.astype(float)
        loss = -np.where(labels, np.log(p), np.log1p(-p)).mean()
    else:
        loss = (((together - labels) / members[0].problem.scale.deviation) ** 2).mean()
    assert found.loss == pytest.approx(loss, rel=1e-4)


def test_data_of_another_kind_is_refused_under_the_same_names():
    labels = {"classes": [0, 1], "multi_label": [[0, 1], [1, 1]], "regression": [[0.5, 1], [2, 3]]}
    datasets = {}
    for kind, values in labels.items():
        source = data.as_source((np.zeros((2, 16, 16, 3), np.uint8), np.array(values)))
        datasets[kind] = data.Dataset(kind, ("a", "b"), data.Subset(source, []), None, source)
    for kind in labels:
        member = trained(kind, 0, {})
        for other, dataset in datasets.items():
            if other == kind:
                assert match_classes(member, dataset, "x").kind == kind
                continue
            with pytest.raises(InputError, match=f"kind {other}, but 'none' was .* kind {kind};"):
                match_classes(member, dataset, "x")


def done_folds(kind, labels, outputs):
    """Two finished folds with half of the images each."""
    problem, half, done = problem_of(kind), len(labels) // 2, []
    for number, rows in enumerate((slice(None, half), slice(half, None))):
        own, naive = labels[rows], problem.naive(labels, labels[rows])
        result = {f"test_{k}": v for k, v in problem.scores(own, outputs[rows]).items()}
        result |= {f"naive_{k}": v for k, v in naive.items()}
        result |= {"kind": kind, "test_size": len(own), "thresholds": [0.5, 0.3]}
        answers = Outputs(np.arange(len(own)), own, outputs[rows])
        images = [f"{number}-{row}.png" for row in range(len(own))]
        done.append(DoneFold(number, result, answers, images, ("a", "b")))
    return Folds(2, 0, (half, len(labels) - half), ("x", "y"), False), done


def test_numbers_out_of_fold(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = rng.normal(50, 9, (40, 2)).astype(np.float32)
    outputs = (labels + rng.normal(0, 3, labels.shape)).astype(np.float32)
    folds, done = done_folds("regression", labels, outputs)
    write_answers(tmp_path / "o.csv", done)
    rows = read(tmp_path / "o.csv")
    assert list(rows[0]) == ["image", "fold", "a", "b", "predicted a", "predicted b"]
    assert [float(row["predicted b"]) for row in rows] == pytest.approx(outputs[:, 1], rel=1e-4)
    summary = summarise(folds, done)
    assert list(summary["scores"]) == [
        f"{one}_{name}" for one in ("test", "naive") for name in ("r2", "rmse", "mae")
    ]
    pooled = summary["out_of_fold"]
    assert pooled["value"] == pytest.approx(problem_of("regression").scores(labels, outputs)["r2"])
    assert pooled["rmse"] == pytest.approx(np.sqrt(((labels - outputs) ** 2).mean(0)).mean())
    assert pooled["naive"] == pytest.approx(0, abs=1e-6)
    assert pooled["verdict"]
    print_folds(folds, done, summary, tmp_path / "o.csv")
    out = capsys.readouterr().out
    assert f"out of fold: R2 {pooled['value']:.4f} (root mean squared error" in out
    assert "naive baseline, always the same answer: " in out


def test_several_labels_out_of_fold(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 2)) < (0.5, 0.3)).astype(np.float32)
    outputs = np.clip(0.4 * labels + 0.5 * rng.random(labels.shape), 0, 1).astype(np.float32)
    folds, done = done_folds("multi_label", labels, outputs)
    write_answers(tmp_path / "o.csv", done)
    rows = read(tmp_path / "o.csv")
    assert list(rows[0]) == ["image", "fold", "label", "predicted", "a", "b"]
    for row, has, p in zip(rows, labels, outputs, strict=True):
        assert row["label"] == "; ".join(n for n, one in zip("ab", has, strict=True) if one)
        said = [
            n for n, q, least in zip("ab", p, (0.5, 0.3), strict=True) if q >= np.float32(least)
        ]
        assert row["predicted"] == "; ".join(said)
    pooled = summarise(folds, done)["out_of_fold"]
    precision = [average_precision_score(labels[:, i], outputs[:, i]) for i in range(2)]
    assert pooled["value"] == pytest.approx(np.mean(precision))
    assert pooled["score"] == "mean_average_precision"


# --- others that read the runs ----------------------------------------------------------------


def test_a_report_takes_the_folds(whole, tmp_path, capsys):
    code, out, err = run(capsys, "report", whole, "--output", tmp_path / "r.html")
    assert (code, err) == (0, "")
    assert "3 runs" in out


def test_a_damaged_list_of_folds_is_an_input_error(whole, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "w")
    for content in ("{}", "[", '{"folds": 3, "data_seed": 0, "sizes": [1], "images": []}'):
        (workdir / "folds.json").write_text(content)
        code, _, err = run(capsys, "evaluate", "--workdir", workdir)
        assert (code, err.count("\n")) == (2, 1)
        assert "cannot read" in err


def test_a_sweep_over_folds_compares_means_over_folds(tmp_path):
    for fold, accuracies in enumerate([(0.9, 0.5), (0.5, 0.8)]):
        for lr, accuracy in zip((0.1, 0.2), accuracies, strict=True):
            made_up(tmp_path, {(lr, 0): (accuracy, accuracy)}, folds=2, fold=fold)
    (chosen,) = select(read_runs(tmp_path))
    assert chosen.overrides == {"lr": 0.1}
    assert chosen.validation.mean == pytest.approx(0.7)
    assert chosen.among == 2
