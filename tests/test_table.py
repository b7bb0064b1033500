"""`csv:FILE`: labels in a table, groups that stay together, and what is refused."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import run
from tljax import config as config_lib
from tljax import data, experiment
from tljax.advice import races
from tljax.advice.neighbours import leave_one_out
from tljax.analysis.report.labels import data_name
from tljax.data.folder import FolderSource
from tljax.data.sources import groups_of_each_class, relabel
from tljax.data.splits import split_off
from tljax.errors import InputError
from tljax.frozen.cross_validation import assign_folds
from tljax.frozen.linear_head import solve_head
from tljax.training import trial
from tljax.training.options import TrainingOptions
from tljax.training.setup import Setup

CONFIG = ["--config.steps=2", "--config.batch_size=8", "--config.model=resnet10_32"]


def rows_of(split=None, group=False):
    for number in range(40):
        row = {"path": f"images/{number}.png", "label": ("cat", "dog")[number // 4 % 2]}
        if split:
            row["split"] = split(number)
        if group:
            row["group"] = f"animal {number // 4}"
        yield row


def write(folder, rows, name="labels.csv", delimiter=",", header=True):
    rows = list(rows)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        if header:
            writer.writeheader()
        writer.writerows(rows)
    return f"csv:{folder / name}"


def names_of(source):
    base, rows = data.unwrap_subset(source)
    return [base.names[row] for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read(delimiter, photos):
    spec = write(photos, rows_of(), delimiter=delimiter)
    dataset = data.load(spec, val_fraction=0.25)
    assert (dataset.name, dataset.class_names) == (spec, ("cat", "dog"))
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [24, 8, 8]
    image = dataset.train[0]
    assert image["image"].shape == (24, 20, 3)
    everything = [*names_of(dataset.train), *names_of(dataset.val), *names_of(dataset.test)]
    assert sorted(everything) == sorted(row["path"] for row in rows_of())
    assert data.read_class_names(spec) == ("cat", "dog")


def test_columns_may_be_named_or_have_no_header(photos):
    rows = [{"photo": r["path"], "note": "x, y", "breed": r["label"]} for r in rows_of()]
    spec = write(photos, rows)
    assert len(data.load(f"{spec}?path=photo,label=breed", val_fraction=0).train) == 32
    bare = write(photos, rows, "bare.csv", header=False)
    assert len(data.load(f"{bare}?columns=path+_+label", val_fraction=0).train) == 32
    whole = data.absolute(f"{spec}?path=photo,label=breed")
    assert whole == f"{spec}?path=photo,label=breed"


@pytest.mark.parametrize(
    ("header", "choices", "said"),
    [
        (("path", "label"), "", []),
        (
            ("path", "class", "target"),
            "",
            [
                "the label in TABLE is the column 'class'; 'target' is not used;"
                " ?label=target takes 'target'"
            ],
        ),
        (("path", "class", "target"), "?label=target", []),
        (("path", "class", "label"), "?numbers=class", []),
        (
            ("Image_Path", "target", "category", "class", "Filename"),
            "",
            [
                "the path in TABLE is the column 'Filename'; 'Image_Path' is not used;"
                " ?path=Image_Path takes 'Image_Path'",
                "the label in TABLE is the column 'class'; 'target', 'category' are not used;"
                " ?label=target takes 'target'",
            ],
        ),
        (
            ("path", "label", "subset", "group"),
            "",
            [
                "in TABLE the column 'subset' gives the splits and 'group' says which images stay"
                " together; rename a column that means something else"
            ],
        ),
        (
            ("path", "label", "subset", "group", "partition"),
            "?split=partition,group=group",
            [],
        ),
        (("path", "label", "subset"), "?columns=path+label+split", []),
    ],
)
def test_what_columns_were_guessed_is_said_once(header, choices, said, photos, caplog):
    def value(column, number):
        if column.lower() in ("path", "image_path", "filename"):
            return f"images/{number}.png"
        if column in ("subset", "partition"):
            return ("train", "test")[number // 4 % 4 == 0]
        return f"animal {number // 4}" if column == "group" else number // 8 % 2

    rows = [{column: value(column, number) for column in header} for number in range(40)]
    spec = write(photos, rows, header="columns" not in choices)
    for _ in range(2):
        data.load(spec + choices)
    place = str(photos / "labels.csv")
    assert [m.replace(place, "TABLE") for m in caplog.messages if place in m] == said


def test_whole_numbers_are_classes_in_their_order(photos):
    rows = [{**row, "label": str(2 + 8 * (n % 2))} for n, row in enumerate(rows_of())]
    assert data.load(write(photos, rows)).class_names == ("2", "10")


def test_given_splits_are_kept(photos):
    def split(number):
        return ("Training", "val", "TEST")[number % 3]

    dataset = data.load(write(photos, rows_of(split)))
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [14, 13, 13]
    assert "images/2.png" in names_of(dataset.test)


def test_groups_stay_on_one_side_of_every_split_and_fold(photos):
    spec = write(photos, rows_of(group=True))
    for seed in range(3):
        dataset = data.load(spec, val_fraction=0.25, seed=seed)
        sides = [
            {int(name[7:-4]) // 4 for name in names_of(source)}
            for source in (dataset.train, dataset.val, dataset.test)
        ]
        assert sum(map(len, sides)) == 10, "no animal is on two sides"
        assert all(sides)
        groups = data.groups_of(dataset.train)
        for folds in assign_folds(dataset.train.labels, seed, 3, groups):
            for group in np.unique(groups):
                assert len(set(folds[groups == group])) == 1
            assert len(set(folds)) == 3
    few = write(photos, [{**row, "group": str(n % 3)} for n, row in enumerate(rows_of())])
    assert {len(source) for source in (data.load(few).train, data.load(few).test)} == {13, 14}
    one = write(photos, [{**row, "group": "all"} for row in rows_of()])
    with pytest.raises(InputError, match="too few for 2 parts"):
        data.load(one)


def test_neighbours_of_the_same_group_do_not_vote():
    x = np.repeat(np.eye(6), 2, axis=0)
    labels = np.repeat(np.arange(6) % 2, 2)
    assert leave_one_out(x, labels) == 1.0
    assert leave_one_out(x, labels, np.repeat(np.arange(6), 2)) < 1.0


def test_a_run_from_a_table_resumes_evaluates_and_keeps_its_splits(photos, tmp_path, capsys):
    spec = write(photos, rows_of(group=True))
    words = [*CONFIG, f"--config.data={spec}", "--config.val_fraction=0.25"]
    experiment.run(config_lib.load("from_scratch", words), tmp_path / "run", progress=False)
    before = json.loads((tmp_path / "run" / "result.json").read_text())
    kept = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert sorted(kept[0]["splits"]) == ["test", "train", "val"]
    Image.new("RGB", (20, 20)).save(photos / "images" / "new.png")
    more = {"path": "images/new.png", "label": "cat", "group": "new"}
    write(photos, [*list(rows_of(group=True))[::-1], more])  # another order, and one image more
    code, out, err = run(capsys, "evaluate", "--workdir", tmp_path / "run")
    assert code == 0, err
    assert f"{before['test_accuracy']:.3f}" in out
    assert "1 images of" in err
    assert "are in no split of the run (0 when it began)" in err


def change(rows, **where):
    rows = list(rows)
    rows[3] = {**rows[3], **where}
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (change(rows_of(), path="images/none.png"), r"1 of the 40 images in .* do not exist"),
        (change(rows_of(), label=""), "line 5 of .* has no label"),
        (change(rows_of(), path="images/2.png", label="dog"), "has two labels"),
        ([{"path": r["path"], "label": "cat"} for r in rows_of()], "are of the class 'cat'"),
        ([{"path": r["path"], "age": "3"} for r in rows_of()], "no column of .* is the label"),
        (change(rows_of(lambda n: "train"), split="elsewhere"), "has the split 'elsewhere'"),
        (
            change(rows_of(lambda n: ("train", "test")[n // 20], group=True), split="test"),
            "is in two splits: train in line 2, test in line 5",
        ),
        (
            [{**r, "label": f"{n / 7:.4f}"} for n, r in enumerate(rows_of())],
            "numbers with decimals",
        ),
        (
            change(rows_of(lambda n: "train"), split="test", label="bird"),
            "has the class 'bird', which no training image has",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(rows, message, photos, tmp_path, capsys):
    spec = write(photos, rows)
    with pytest.raises(InputError, match=message):
        data.load(spec)
    argv = ["train", "--config", "from_scratch", *CONFIG, f"--config.data={spec}"]
    code, _, err = run(capsys, *argv, "--workdir", tmp_path / "w")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"path,label\n", "has no rows"),
        (b"path,label\na.png,cat,x\n", "line 2 of .* has 3 columns, but the first has 2"),
        (b'path,label\n"a.png,cat\n', "is no CSV"),
        (b"\xff\xfe\x00path", "is not UTF-8"),
        (b"path,label\na\x00.png,cat\n", "zero byte|do not exist|is no CSV"),
        (b"path,label\n" + 300 * b"a" + b".png,cat\nb.png,dog\n", "2 of the 2 images"),
        (b"path,label\n~nobody/a.png,cat\nb.png,dog\n", "2 of the 2 images"),
    ],
)
def test_damaged_tables_are_refused(content, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        data.load(f"csv:{tmp_path / 't.csv'}")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("?path", "is not of the form KEY=VALUE"),
        ("?photo=x", "there is no choice"),
        ("?label=breed", "has no column 'breed'"),
        ("?columns=path", "lacks path or label"),
        ("?columns=path+label,label=x", "there is no header"),
        ("?columns=path+label+_", "has 2 columns, but columns= names 3"),
        ("?label=label,label=label", "chooses label twice"),
    ],
)
def test_bad_choices_are_refused(choices, message, photos):
    with pytest.raises(InputError, match=message):
        data.load(write(photos, rows_of()) + choices)


def test_rows_that_repeat_another_are_left_out_and_counted(photos, caplog):
    rows = list(rows_of())
    assert len(data.load(write(photos, [*rows, *rows[:5]]), val_fraction=0).train) == 32
    assert "5 rows of" in caplog.text


def test_two_spellings_of_a_path_are_one_image(photos, caplog):
    rows = list(rows_of())
    (photos / "again").symlink_to(photos / "images")
    spelled = [
        {**rows[0], "path": "./images/0.png"},
        {**rows[1], "path": "images/../images//1.png"},
        {**rows[2], "path": str(photos / "images" / "2.png")},
        {**rows[3], "path": "again/3.png"},
    ]
    assert len(data.load(write(photos, rows + spelled), val_fraction=0).train) == 32
    assert "4 rows of" in caplog.text
    other = {**rows[0], "path": "./images/0.png", "label": "dog"}
    with pytest.raises(InputError, match="has two labels"):
        data.load(write(photos, [*rows, other]))


def test_a_column_that_is_twice_in_the_header_is_refused(photos):
    lines = [f"{row['path']},{row['label']},{n % 2}" for n, row in enumerate(rows_of())]
    (photos / "t.csv").write_text("\n".join(["path,label,Label", *lines]))
    with pytest.raises(InputError, match="has 'label' 2 times"):
        data.load(f"csv:{photos / 't.csv'}")
    assert data.load(f"csv:{photos / 't.csv'}?label=Label").class_names == ("0", "1")


def test_spaces_before_quotes_and_empty_lines_above_the_header_do_no_harm(photos):
    lines = [f'{row["path"]}; "{row["label"]}"' for row in rows_of()]
    (photos / "t.csv").write_text("\n".join(["", "", "path; label", *lines]))
    assert data.load(f"csv:{photos / 't.csv'}").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("images", "it is a folder, but a file is wanted"),
        ("https://example.org/1.png", "web addresses are not read"),
    ],
)
def test_a_path_that_is_no_file_is_explained(path, message, photos):
    with pytest.raises(InputError, match=message):
        data.load(write(photos, change(rows_of(), path=path)))


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe or device"):
        data.load(f"csv:{tmp_path / 'pipe'}")


def test_labels_in_messages_are_on_one_line(photos):
    rows = [{**row, "label": "a\nb"} for row in rows_of()]
    with pytest.raises(InputError, match=r"class 'a\\nb'"):
        data.load(write(photos, rows))


def test_test_images_alone_may_be_of_one_class(photos):
    rows = [row for row in rows_of(lambda n: "test") if row["label"] == "cat"]
    dataset = data.load(write(photos, rows), test_only=True)
    assert (dataset.class_names, len(dataset.test)) == (("cat",), 20)


def grouped_source(labels, groups):
    files = [Path(f"{number}.png") for number in range(len(labels))]
    return FolderSource(files, labels, groups=groups)


def test_of_uneven_groups_the_nearest_part_is_split_off():
    groups = np.repeat(np.arange(6), [100, 1, 1, 1, 1, 1])
    labels = np.random.default_rng(0).integers(0, 3, len(groups))
    kept, away = split_off(grouped_source(labels, groups), 0.2, np.random.default_rng(0))
    assert len(away) <= 5
    assert len(kept) >= 100, "the largest group trains"


def test_the_probe_of_a_race_holds_out_whole_groups(monkeypatch):
    asked = []

    def solve(features, labels, num_classes, groups):
        asked.append(groups.tolist())
        return SimpleNamespace(kernel=np.zeros((1, 2)), bias=np.array([1.0, 0.0]))

    monkeypatch.setattr(races, "solve_head", solve)
    source = grouped_source(np.arange(6) % 2, np.arange(6) // 2)
    assert races.probe_right(np.zeros((6, 1)), source, 2, np.arange(6) < 2) == 1
    assert asked == [[1, 1, 2, 2]]


def test_few_groups_are_fewer_folds():
    labels = np.arange(12) % 2
    folds = assign_folds(labels, 0, groups=np.arange(12) // 6)
    assert all(len(set(row)) == 2 for row in folds)
    with pytest.raises(InputError, match="1 groups of images, too few for 2 parts"):
        assign_folds(labels, 0, groups=np.zeros(12, int))


def test_a_class_of_one_group_can_be_solved():
    x = np.random.default_rng(0).normal(size=(13, 4)) + np.arange(13)[:, None] % 2
    labels = np.append(np.arange(12) % 2, 2)
    head = solve_head(x, labels, 3, groups=np.append(np.arange(12) // 4, 3))
    assert np.isfinite(head.report["cross_validation"]["loss"])


def test_trials_leave_out_whole_groups_and_none_of_a_class_of_two(photos, monkeypatch):
    def split(number):
        return "test" if number % 4 == 3 else "train"

    def group(row, number):
        if row["split"] == "test":
            return "tested"
        return f"cat {number % 5}" if row["label"] == "cat" else f"dog {number % 2}"

    rows = [{**row, "group": group(row, n)} for n, row in enumerate(rows_of(split))]
    train = data.load(write(photos, rows), val_fraction=0).train
    asked = []

    def try_once(setup, pretrained, lr, left_out, alphas):
        asked.append(left_out)
        return [trial.Tried(1, 0, np.ones(left_out.sum()), None)] * 2

    monkeypatch.setattr(trial, "try_once", try_once)
    chosen = trial.choose(Setup(None, None, TrainingOptions(), None, train), None, (0.01,))
    assert (chosen.images, chosen.others) == (15, 15)
    assert np.array_equal(np.sum(asked, axis=0), train.labels == 0), "each cat once, and no dog"
    for left_out in asked:
        groups = data.groups_of(train)
        assert not set(groups[left_out]) & set(groups[~left_out])


def test_groups_of_several_tasks_stay_apart(photos):
    grouped = write(photos, rows_of(group=True))
    plain = write(photos, rows_of(), "plain.csv")
    spec = f"{grouped}?path=path,label=label,{plain}"
    dataset = data.load(spec, val_fraction=0.25)
    groups = data.groups_of(dataset.train)
    first = dataset.train.labels < 2
    assert not set(groups[first]) & set(groups[~first])
    assert len(set(groups[~first])) == (~first).sum(), "without a group each image is alone"
    for part in set(groups[first]):
        assert (groups == part).sum() == 4
    assert data.groups_of(data.load(f"{plain},{plain}?label=label").train) is None


def test_labels_that_change_during_a_run_are_warned_of(photos, tmp_path, capsys):
    spec = write(photos, rows_of())
    words = [*CONFIG, f"--config.data={spec}"]
    experiment.run(config_lib.load("from_scratch", words), tmp_path / "run", progress=False)
    Image.open(photos / "images" / "3.png").save(photos / "images" / "copy.png")
    copy = {"path": "images/copy.png", "label": "dog"}
    write(photos, [copy, *change(rows_of(), label="dog")])
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path / "run")
    assert code == 0, err
    assert "1 images of" in err
    assert "have other labels than when the run began" in err


def test_a_table_that_is_gone_is_asked_for(photos, tmp_path, capsys):
    spec = write(photos, rows_of())
    words = [*CONFIG, f"--config.data={spec}"]
    experiment.run(config_lib.load("from_scratch", words), tmp_path / "run", progress=False)
    (photos / "labels.csv").rename(photos / "moved.csv")
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path / "run")
    assert code == 2
    assert "if the data has moved, name its new place" in err
    moved = f"csv:{photos / 'moved.csv'}"
    code, _, err = run(capsys, "evaluate", "--workdir", tmp_path / "run", "--data", moved)
    assert code == 0, err


def test_a_report_calls_a_table_by_its_name():
    assert data_name("csv:/data/pets.csv?path=photo,label=breed") == "pets.csv"
    assert data_name("wds:/data/{a,b}-{00..11}.tar") == "{a,b}-{00..11}.tar"
    assert data_name("hf://datasets/ann/pets?labels=tags") == "pets"


# --- several labels, numbers, weights -----------------------------------------------------------

TAGS = ("", "young", "wild", "young;wild")


def tagged(separator=";", column="tags"):
    """The number of an image modulo 4 says whether it is young (1) and wild (2)."""
    for number, row in enumerate(rows_of()):
        tags = TAGS[number % 4].replace(";", separator)
        yield {"path": row["path"], column: tags, "young": number % 2, "wild": number // 2 % 2}


def labels_by_image(*sources):
    """{number of the image: its label}."""
    return {
        int(name[7:-4]): source.labels[i].tolist()
        for source in sources
        for i, name in enumerate(names_of(source))
    }


def expected_tags(order=("wild", "young")):
    bit = {"young": 1, "wild": 2}
    return {number: [int(number & bit[name] > 0) for name in order] for number in range(40)}


@pytest.mark.parametrize(
    ("separator", "choices"),
    [
        (";", "labels=tags"),
        ("|", "labels=tags"),
        (", ", "labels=tags"),
        (" ", "labels=tags,separator=space"),
        ("/", "labels=tags,separator=/"),
        (";", "labels=tags,separator=semicolon"),
    ],
)
def test_several_labels_in_a_cell(separator, choices, photos, caplog):
    spec = write(photos, tagged(separator)) + f"?{choices}"
    dataset = data.load(spec, val_fraction=0.25)
    assert (dataset.kind, dataset.class_names) == ("multi_label", ("wild", "young"))
    assert labels_by_image(dataset.train, dataset.val, dataset.test) == expected_tags()
    said = f"separated by '{separator.strip()}', e.g. 'young{separator}wild'"
    assert (said in caplog.text) == ("separator" not in choices)
    (task,) = data.read_tasks(spec)
    assert (task.kind, task.class_names) == ("multi_label", ("wild", "young"))


def test_a_message_shows_no_long_cell_in_full(photos, caplog):
    rows = [{**row, "tags": "; ".join(f"label{n}" for n in range(40))} for row in tagged()]
    rows[0]["tags"] = "label1"
    data.load(write(photos, rows) + "?labels=tags")
    (said,) = [r.getMessage() for r in caplog.records if "are separated by" in r.getMessage()]
    assert "'label0; label1; " in said
    assert said.endswith("...'")
    assert said.count("label") < 20


def test_a_cell_without_a_separator_is_one_label(photos, caplog):
    rows = [{"path": r["path"], "tags": f"big {r['label']}"} for r in rows_of()]
    assert data.load(write(photos, rows) + "?labels=tags").class_names == ("big cat", "big dog")
    assert "each cell in the column 'tags'" in caplog.text


@pytest.mark.parametrize("words", [("0", "1"), ("false", "TRUE"), ("no", "Yes"), ("0.0", "1.0")])
def test_a_column_of_0_and_1_for_each_label(words, photos):
    rows = [
        {"path": row["path"], "young": words[row["young"]], "wild": words[row["wild"]]}
        for row in tagged()
    ]
    dataset = data.load(write(photos, rows) + "?labels=young+wild", val_fraction=0.25)
    assert (dataset.kind, dataset.class_names) == ("multi_label", ("young", "wild"))
    everything = labels_by_image(dataset.train, dataset.val, dataset.test)
    assert everything == expected_tags(("young", "wild"))
    one = data.load(write(photos, rows) + "?labels=wild")
    assert (one.kind, one.class_names) == ("multi_label", ("wild",))
    assert sorted({tuple(label) for label in one.train.labels.tolist()}) == [(0,), (1,)]


@pytest.mark.parametrize("choice", ["numbers=x", "numbers=y+x"])
def test_numbers(choice, photos):
    rows = [{"path": r["path"], "x": n / 7, "y": -n} for n, r in enumerate(rows_of())]
    dataset = data.load(write(photos, rows) + f"?{choice}", val_fraction=0.25)
    names = tuple(choice[8:].split("+"))
    assert (dataset.kind, dataset.class_names) == ("regression", names)
    assert dataset.train.labels.dtype == np.float32
    values = {n: [{"x": float(np.float32(n / 7)), "y": -n}[k] for k in names] for n in range(40)}
    assert labels_by_image(dataset.train, dataset.val, dataset.test) == values
    assert data.read_tasks(dataset.name)[0] == data.Task(dataset.name, names, "regression")


def test_without_a_header_the_columns_are_named_first(photos):
    rows = list(tagged())
    several = write(photos, rows, header=False) + "?columns=path+tags+_+_,labels=tags"
    assert data.load(several).class_names == ("wild", "young")
    flags = write(photos, rows, header=False) + "?columns=path+_+a+b,labels=b+a"
    assert data.load(flags).class_names == ("b", "a")
    numbers = write(photos, rows, header=False) + "?columns=path+_+x+weight,numbers=x"
    with pytest.raises(InputError, match="has the weight '0'"):
        data.load(numbers)


def test_weights_come_with_the_images(photos, caplog):
    rows = [{**r, "weight": 0.5 + n} for n, r in enumerate(rows_of())]
    dataset = data.load(write(photos, rows), val_fraction=0)
    assert "is weighted by its column 'weight' (0.5 to 39.5)" in caplog.text
    for i, name in enumerate(names_of(dataset.train)):
        assert dataset.train[i]["weight"] == 0.5 + int(name[7:-4])
    joined = data.load(f"{dataset.name},embedded:digits", val_fraction=0.25).train
    weights = {joined[i]["weight"] for i in (0, len(joined) - 1)}
    assert weights == {dataset.train[0]["weight"], 1.0}
    other = write(photos, [{**row, "weight": 1} for row in rows])
    assert data.fingerprint(data.load(other, val_fraction=0).train) != data.fingerprint(
        dataset.train
    )
    chosen = write(photos, [{**r, "w": 2} for r in rows_of()]) + "?weight=w"
    assert data.load(chosen).train[0]["weight"] == 2
    animals = [{"path": r["path"], "weight": n} for n, r in enumerate(rows_of())]
    assert "weight" not in data.load(write(photos, animals) + "?numbers=weight").train[0]


def test_few_numbers_with_decimals_are_classes_and_this_is_said(photos, caplog):
    rows = [{**row, "label": ("0.0", "0.5")[n % 2]} for n, row in enumerate(rows_of())]
    assert data.load(write(photos, rows)).class_names == ("0.0", "0.5")
    assert "are 2 numbers with decimals, e.g. 0.0: they are taken as names" in caplog.text
    assert "?numbers=label predicts them as numbers" in caplog.text


def test_labels_that_tell_no_image_from_another_are_warned_of(photos, caplog):
    rows = [{**row, "never": 0, "always": 1} for row in tagged()]
    dataset = data.load(write(photos, rows) + "?labels=young+never+always")
    assert dataset.class_names == ("young", "never", "always")
    assert "1 of the 3 labels of csv:" in caplog.text
    assert "as no training image has them: never" in caplog.text
    assert "as all training images have them: always" in caplog.text


def test_test_images_alone_keep_the_kind_of_their_labels(photos):
    rows = [{**row, "split": "test"} for row in tagged()]
    dataset = data.load(write(photos, rows) + "?labels=tags", test_only=True)
    assert (dataset.kind, len(dataset.train), len(dataset.test)) == ("multi_label", 0, 40)
    known = relabel(dataset, ("tame", "wild", "young"))
    assert labels_by_image(dataset.test) == expected_tags()
    assert known.test.labels[:, 1:].tolist() == dataset.test.labels.tolist()
    assert not known.test.labels[:, 0].any()


def numbered(**columns):
    """Rows with columns, each a function of the image's number."""
    for number, row in enumerate(rows_of()):
        yield {"path": row["path"], **{name: of(number) for name, of in columns.items()}}


def at_3(other):
    """0.5 and 1.5 in turn, but `other` for image 3, in line 5."""
    return lambda n: other if n == 3 else 0.5 + n % 2


@pytest.mark.parametrize(
    ("rows", "choices", "message"),
    [
        (numbered(x=at_3("nan")), "numbers=x", "1 of the 40 rows .* no finite number in 'x', e.g."),
        (numbered(x=at_3("inf")), "numbers=x", "'inf' in line 5; fill them or remove the rows"),
        (numbered(x=at_3("")), "numbers=x", "no finite number in 'x', e.g. '' in line 5"),
        (numbered(x=at_3("1e39")), "numbers=x", "no finite number in 'x', e.g. '1e39' in line 5"),
        (numbered(x=at_3("1_0")), "numbers=x", "'1_0' in line 5"),
        (numbered(x=at_3("1,5")), "numbers=x", "'1,5' in line 5"),
        (numbered(x=lambda n: 2), "numbers=x", "all training images .* have the number 2 in 'x'"),
        (
            numbered(x=lambda n: 1.7e9 + n),
            "numbers=x",
            r"numbers in 'x' of .* go from 1.7e\+09 to 1.7e\+09, which are too close together",
        ),
        (numbered(x=at_3(1)), "numbers=z", "has no column 'z'"),
        (numbered(x=at_3(1)), "numbers=x+x", "names a column of its numbers twice"),
        (numbered(x=at_3(1)), "numbers=x,label=x", "chooses label and numbers; keep"),
        (numbered(a=lambda n: ""), "labels=a", "no image of .* has a label in a; name the columns"),
        (numbered(a=lambda n: "; "), "labels=a", "no image of .* has a label in a"),
        (numbered(a=lambda n: 0, b=lambda n: 0), "labels=a+b", "has a label in a, b"),
        (numbered(a=lambda n: 1), "labels=a", "all 26 training images of .* have the same labels"),
        (numbered(a=lambda n: 1, b=lambda n: 0), "labels=a+b", "so there is nothing to learn; add"),
        (numbered(a=at_3(1), b=lambda n: 1), "labels=a+b", "line 2 of .* has '0.5' in 'a', but 0"),
        (numbered(a=lambda n: n % 2 if n != 3 else ""), "labels=a", "line 5 of .* has '' in 'a'"),
        (numbered(a=lambda n: "x;y|z"), "labels=a", "both ';' and '.' occur in the column 'a'"),
        (numbered(a=at_3(1)), "labels=a+a", "names a column of its labels twice"),
        (numbered(a=at_3(1), b=at_3(1)), "labels=a+b,separator=;", "are in several columns; leave"),
        (numbered(a=at_3(1)), "labels=a,separator=xy", "the separator 'xy' .* is not one sign"),
        (numbered(a=at_3(1)), "label=a,separator=;", "but no labels=COLUMN that it is for"),
        (numbered(a=at_3(1)), "labels=a,separator=,", "is written separator=comma"),
        (numbered(a=lambda n: n / 7), "label=a", r"predict the numbers with \?numbers=a"),
        (numbered(a=at_3("x"), weight=at_3(0)), "labels=a", "has the weight '0', but a positive"),
        (numbered(a=at_3("x"), weight=at_3("nan")), "labels=a", "line 5 .* has the weight 'nan'"),
        (
            [*numbered(x=at_3(1)), {"path": "images/3.png", "x": 2}],
            "numbers=x",
            "has two labels .*: '1' in line 5, '2' in line 42",
        ),
        (
            [*numbered(a=lambda n: "x;y"), {"path": "images/3.png", "a": ""}],
            "labels=a",
            "has two labels .*: 'x, y' in line 5, 'none' in line 42",
        ),
    ],
)
def test_labels_of_another_kind_are_refused(rows, choices, message, photos, capsys):
    spec = write(photos, rows) + f"?{choices}"
    with pytest.raises(InputError, match=message):
        data.load(spec)
    argv = ["train", "--config", "from_scratch", f"--config.data={spec}"]
    code, _, err = run(capsys, *argv, "--workdir", photos / "w")
    assert code == 2
    assert sum("warning" not in line for line in err.strip().splitlines()) == 1
    assert not (photos / "w").exists()


def test_the_order_of_labels_in_a_cell_does_not_count(photos):
    rows = [*numbered(a=lambda n: "x;y" if n % 2 else "x"), {"path": "images/3.png", "a": "y; x"}]
    assert len(data.load(write(photos, rows) + "?labels=a", val_fraction=0).train) == 32


def test_lists_written_as_text_are_refused(photos):
    spec = write(photos, numbered(a=lambda n: "['x', 'y']" if n % 2 else "['x']")) + "?labels=a"
    with pytest.raises(InputError, match=r"lists written as text, e.g. \['x'"):
        data.load(spec)


def test_names_of_missing_values_are_counted(photos, caplog):
    rows = [{**row, "label": "NA" if n < 3 else row["label"]} for n, row in enumerate(rows_of())]
    assert "NA" in data.load(write(photos, rows)).class_names
    assert "3 of the 40 cells in the column 'label'" in caplog.text


def test_of_few_groups_it_is_said_that_a_larger_part_is_split_off(caplog):
    source = grouped_source(np.arange(60) % 2, np.arange(60) // 20)
    kept, away = split_off(source, 0.1, np.random.default_rng(0))
    assert (len(kept), len(away)) == (40, 20)
    assert "one of 3 is split off where one of 10 was wanted" in caplog.text


def test_the_groups_of_a_class_are_counted_not_its_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    grouped = grouped_source(labels, np.array([0, 1, 2, 3, 4, 4, 4]))
    assert groups_of_each_class(grouped).tolist() == [4] * 4 + [1] * 3
    assert groups_of_each_class(FolderSource([Path("x")] * 7, labels)).tolist() == [4] * 4 + [3] * 3
