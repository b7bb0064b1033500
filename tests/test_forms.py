"""Forms of tables: Parquet, Hugging Face, WebDataset and frames."""

import hashlib
import io
import json
import pickle
import re
import shlex
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.test_cli import config, run
from tests.test_docs import commands
from tests.test_table import TAGS, tagged, write
from tests.test_tpu_vm import REPOSITORY
from tljax import cli, data
from tljax.data import kept
from tljax.errors import InputError


def split_at(number):
    return "train" if number < 28 else "validation" if number < 32 else "test"


def table_of(photos, *, images="bytes", rows=range(40), names=("zebra", "ant")):
    """An Arrow table of the photos as Hugging Face writes them; labels 0 and 1 have names."""
    columns = {"image": [], "label": [], "tags": [], "score": [], "group": []}
    for number in rows:
        path = f"images/{number}.png"
        content = (photos / path).read_bytes()
        columns["image"].append(
            {
                "bytes": content,
                "path": path,
                "struct": {"bytes": content, "path": path},
            }[images]
        )
        columns["label"].append(number // 4 % 2)
        columns["tags"].append([bit for bit in (0, 1) if number >> bit & 1])
        columns["score"].append(number / 7)
        columns["group"].append(f"animal {number // 4}")
    label = {"_type": "ClassLabel", "names": list(names)}
    tags = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": ["young", "wild"]}}
    features = {"image": {"_type": "Image"}, "label": label, "tags": tags}
    schema = {b"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns)
    return table.set_column(3, "score", table["score"].cast(pa.float32())).replace_schema_metadata(
        schema
    )


SPLIT_ROWS = {
    split: [number for number in range(40) if split_at(number) == split]
    for split in ("train", "validation", "test")
}


def as_parquet(photos, place, images):
    place.mkdir()
    for split, rows in SPLIT_ROWS.items():
        table = table_of(photos, images=images, rows=rows)
        pq.write_table(table, place / f"{split}-00000-of-00001.parquet", row_group_size=5)
    return f"parquet:{place}"


def as_saved(photos, place, images):
    """What `datasets.save_to_disk` writes."""
    place.mkdir()
    (place / "dataset_dict.json").write_text(json.dumps({"splits": list(SPLIT_ROWS)}))
    for split, rows in SPLIT_ROWS.items():
        (place / split).mkdir()
        files = []
        for part, share in enumerate((rows[:3], rows[3:])):
            table = table_of(photos, images=images, rows=share)
            files.append({"filename": f"data-{part:05}-of-00002.arrow"})
            file = place / split / files[-1]["filename"]
            with pa.ipc.new_stream(str(file), table.schema) as writer:
                writer.write_table(table, max_chunksize=4)
        state = {"_data_files": files, "_fingerprint": "0", "_split": split}
        (place / split / "state.json").write_text(json.dumps(state))
    return f"hf:{place}"


def as_tars(photos, place, images):
    place.mkdir()
    for split, rows in SPLIT_ROWS.items():
        for part, share in enumerate((rows[:3], rows[3:])):
            samples = {}
            for number in share:
                tags = ["young", "wild"]
                fields = {
                    "label": ("zebra", "ant")[number // 4 % 2],
                    "tags": [tag for bit, tag in enumerate(tags) if number >> bit & 1],
                    "score": number / 7,
                    "group": f"animal {number // 4}",
                }
                samples[f"{number:04}.png"] = (photos / f"images/{number}.png").read_bytes()
                samples[f"{number:04}.json"] = json.dumps(fields).encode()
            write_tar(place / f"{split}-{part:03}.tar", samples)
    return f"wds:{place}"


def write_tar(file, members, mode="w"):
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def in_splits(dataset):
    """{split: {digest of the pixels: label by name}}."""
    found = {}
    for split in kept.SPLITS:
        source = getattr(dataset, split)
        found[split] = {
            hashlib.sha256(source[i]["image"].tobytes()).hexdigest(): named(
                dataset, source[i]["label"]
            )
            for i in range(len(source))
        }
        assert len(found[split]) == len(source)
    return found


def named(dataset, label):
    if isinstance(label, int):
        return dataset.class_names[label]
    pairs = zip(dataset.class_names, label.tolist(), strict=True)
    return {name: value for name, value in pairs if value}


@pytest.fixture
def listed(photos):
    """The photos in a CSV, which the other forms are compared with."""
    rows = [
        {
            "path": f"images/{number}.png",
            "label": ("zebra", "ant")[number // 4 % 2],
            "tags": row["tags"],
            "score": number / 7,
            "split": split_at(number),
            "group": f"animal {number // 4}",
        }
        for number, row in enumerate(tagged())
    ]
    return write(photos, rows)


FORMS = {
    "parquet": (as_parquet, "struct"),
    "parquet_bytes": (as_parquet, "bytes"),
    "parquet_paths": (as_parquet, "path"),
    "hf": (as_saved, "struct"),
    "hf_parquet": (as_parquet, "bytes"),
    "wds": (as_tars, None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("choices", ["label=label", "labels=tags", "numbers=score"])
def test_every_form_holds_the_same_images_labels_and_splits(
    form,
    choices,
    photos,
    listed,
):
    make, images = FORMS[form]
    # paths are relative to the folder of the files
    place = photos / "data"
    spec = make(photos, place, images)
    if images == "path":
        (place / "images").symlink_to(photos / "images")
    if form == "hf_parquet":
        spec = spec.replace("parquet:", "hf:")
    dataset = data.load(f"{spec}?{choices}")
    expected = data.load(f"{listed}?{choices}")
    assert in_splits(dataset) == in_splits(expected)
    assert dataset.kind == expected.kind
    groups = data.groups_of(dataset.train)
    assert len(set(groups)) == 7
    assert np.bincount(groups).tolist() == [4] * 7
    if choices == "label=label":
        for group in range(7):
            assert len(set(dataset.train.labels[groups == group])) == 1
    (task,) = data.read_tasks(f"{spec}?{choices}")
    assert (task.class_names, task.kind) == (dataset.class_names, dataset.kind)
    if choices == "label=label" and form != "wds":
        assert dataset.class_names == ("zebra", "ant"), "in the order of ClassLabel"


def test_images_of_a_parquet_file_are_copied_once(photos, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(photos / "cache"))
    pq.write_table(table_of(photos), photos / "p.parquet")
    first = data.load(f"parquet:{photos / 'p.parquet'}")

    def copies():
        return {f: f.stat().st_mtime_ns for f in (photos / "cache/tljax/packed").iterdir()}

    before = copies()
    assert len(before) == 2
    again = data.load(f"parquet:{photos / 'p.parquet'}")
    assert copies() == before
    assert data.fingerprint(again.train) == data.fingerprint(first.train)
    pixels = pixels_of(again.train)
    next(f for f in before if f.suffix == ".bin").write_bytes(b"")  # a copy that was cut
    assert pixels_of(data.load(f"parquet:{photos / 'p.parquet'}").train) == pixels
    pq.write_table(table_of(photos, rows=range(20)), photos / "p.parquet")
    assert len(data.load(f"parquet:{photos / 'p.parquet'}", val_fraction=0).train) == 16
    (photos / "cache").rename(photos / "old")
    (photos / "cache").touch()
    with pytest.raises(InputError, match=r"cannot copy the images of .*set XDG_CACHE_HOME"):
        data.load(f"parquet:{photos / 'p.parquet'}")


def test_images_within_files_are_read_in_other_processes_and_may_be_damaged(photos):
    contents = [(photos / f"images/{number}.png").read_bytes() for number in range(40)]
    contents[7] = b"no image"
    table = replaced("image", contents)(table_of(photos))
    pq.write_table(table, photos / "p.parquet")
    source, _ = data.unwrap_subset(data.load(f"parquet:{photos / 'p.parquet'}").train)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy[3]["image"] == source[3]["image"]).all()
    assert data.fingerprint(copy) == data.fingerprint(source)
    with pytest.raises(data.Unreadable, match=r"p.parquet\[7\]: it is truncated or not a JPEG"):
        source[7]


def test_data_that_has_moved_is_told_from_other_data():
    assert data.may_have_moved("wds:/a/x.tar", "wds:/b/x.tar")
    assert not data.may_have_moved("wds:/a/x.tar", "parquet:/b/x.tar")
    assert not data.may_have_moved("parquet:/a?labels=x", "parquet:/a?labels=y")
    assert not data.may_have_moved("hf://datasets/ann/pets", "hf://datasets/ben/pets")


def pixels_of(source):
    return [source[i]["image"].tobytes() for i in range(len(source))]


# --- a run's images stay in their splits ---------------------------------------------------------


def write_one(form, photos, rows):
    """Writes one file without splits, with weights, in place of the one before."""
    table = table_of(photos, rows=rows)
    table = table.append_column("weight", pa.array([1.0 + number for number in rows]))
    if form == "parquet":
        pq.write_table(table, photos / "one.parquet")
        return f"parquet:{photos / 'one.parquet'}"
    cells = [
        {**row, "path": f"images/{number}.png", "tags": ";".join(map(str, row["tags"]))}
        for number, row in zip(rows, table.drop(["image"]).to_pylist(), strict=True)
    ]
    if form == "csv":
        return write(photos, cells, "one.csv")
    samples = {}
    for number, row in zip(rows, cells, strict=True):
        samples[f"{number}.json"] = json.dumps(row).encode()
        samples[f"{number}.png"] = (photos / row["path"]).read_bytes()
    write_tar(photos / "one.tar", samples)
    return f"wds:{photos / 'one.tar'}"


@pytest.mark.parametrize("form", ["csv", "parquet", "wds"])
@pytest.mark.parametrize("choices", ["label=label", "labels=tags", "numbers=score"])
def test_images_of_every_form_keep_their_split_label_group_and_weight(
    form,
    choices,
    photos,
    caplog,
):
    spec = f"{write_one(form, photos, range(36))}?{choices}"
    fields = {"seed": 3, "val_fraction": 0.25}
    before = data.load(spec, **fields)
    (record,) = json.loads(json.dumps(kept.describe(before)))
    assert data.load(spec, **fields, kept=[record]).train.labels.tolist() == (
        before.train.labels.tolist()
    )
    was = in_splits_with_weights(before)
    caplog.clear()
    write_one(form, photos, [*range(39, 1, -1)])  # another order, four images more and two less
    after = data.load(spec, **fields, kept=[record])
    assert "other labels" not in caplog.text
    assert "4 images of" in caplog.text
    assert "lacks images of the run: " in caplog.text
    now = in_splits_with_weights(after)
    gone = [entry for entry in was if entry not in now]
    assert len(gone) == 2
    assert not [entry for entry in now if entry not in was]
    groups = data.groups_of(kept.without_missing(after.train))
    assert max(np.bincount(groups)) <= 4
    assert len(set(groups)) == len(set(data.groups_of(before.train)))


def in_splits_with_weights(dataset):
    return [
        (split, example["image"].tobytes(), named(dataset, example["label"]), example["weight"])
        for split in kept.SPLITS
        for source in [kept.without_missing(getattr(dataset, split))]
        for example in (source[i] for i in range(len(source)))
    ]


@pytest.mark.parametrize("choices", ["label=label", "labels=tags", "numbers=score"])
def test_labels_that_change_are_counted_and_kept(choices, photos, caplog):
    spec = f"{write_one('parquet', photos, range(36))}?{choices}"
    before = data.load(spec)
    (record,) = json.loads(json.dumps(kept.describe(before)))
    table = pq.read_table(photos / "one.parquet")
    column = choices.partition("=")[2]
    other = table[column].to_pylist()
    other[0] = {"label": 1, "tags": [1], "score": 0.5}[column]
    index = table.schema.get_field_index(column)
    changed = table.set_column(index, table.field(column), pa.array(other, table[column].type))
    pq.write_table(changed, photos / "one.parquet")
    after = data.load(spec, kept=[record])
    assert "1 images of" in caplog.text
    assert "have other labels than when the run began" in caplog.text
    for split in kept.SPLITS:
        assert (getattr(after, split).labels == getattr(before, split).labels).all()


# --- Parquet and Hugging Face --------------------------------------------------------------------


def test_splits_and_configurations_are_chosen(photos, caplog):
    for name, rows in (("red", range(20)), ("blue", range(20, 40))):
        for split, share in (("train", rows[:12]), ("extra", rows[12:16]), ("test", rows[16:])):
            (photos / "hub" / name / split).mkdir(parents=True)
            file = photos / "hub" / name / split / "0000.parquet"
            pq.write_table(table_of(photos, rows=share), file)
    place = f"hf:{photos / 'hub'}"
    with pytest.raises(InputError, match="has 2 configurations, blue, red; choose one with"):
        data.load(place)
    with pytest.raises(InputError, match=r"there is no configuration of .* 'green'; known"):
        data.load(f"{place}?config=green")
    with pytest.raises(InputError, match=r"has no split 'trian' .did you mean 'train'"):
        data.load(f"{place}?config=red,train=trian")
    with pytest.raises(InputError, match="has train as train and as test; keep one"):
        data.load(f"{place}?config=red,train=train,test=train")
    dataset = data.load(f"{place}?config=red,val=extra")
    assert [len(getattr(dataset, split)) for split in kept.SPLITS] == [12, 4, 4]
    assert "not used" not in caplog.text
    data.load(f"{place}?config=blue")
    assert "the splits extra of" in caplog.text


def test_a_data_set_saved_without_splits_is_split(photos):
    (photos / "saved").mkdir()
    state = {"_data_files": [{"filename": "data.arrow"}]}
    (photos / "saved" / "state.json").write_text(json.dumps(state))
    plain = table_of(photos).replace_schema_metadata(None)
    with pa.ipc.new_file(str(photos / "saved" / "data.arrow"), plain.schema) as writer:
        writer.write_table(plain)
    info = json.loads(table_of(photos).schema.metadata[b"huggingface"])["info"]
    (photos / "saved" / "dataset_info.json").write_text(json.dumps(info))
    dataset = data.load(f"hf:{photos / 'saved'}", val_fraction=0)
    assert dataset.class_names == ("zebra", "ant")
    assert len(dataset.train) + len(dataset.test) == 40
    (photos / "saved" / "data.arrow").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cannot read .*data.arrow as an Arrow file"):
        data.load(f"hf:{photos / 'saved'}")
    (photos / "saved" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="names no files; save the data again"):
        data.load(f"hf:{photos / 'saved'}")


@pytest.fixture
def hub(photos, monkeypatch):
    """The hub's cache with one data set in it, and no network."""
    monkeypatch.setenv("TLJAX_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(photos / "hub"))
    folder = photos / "hub" / "datasets--ann--pets"
    for split, rows in SPLIT_ROWS.items():
        file = folder / "snapshots" / ("0" * 40) / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(photos, rows=rows), file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)


def test_a_data_set_of_the_hub_is_read_from_its_cache(hub, listed, capsys, tmp_path):
    dataset = data.load("hf://datasets/ann/pets")
    assert in_splits(dataset) == in_splits(data.load(listed))
    assert dataset.class_names == ("zebra", "ant")
    assert data.absolute("hf://datasets/ann/pets?labels=tags") == (
        "hf://datasets/ann/pets?labels=tags"
    )
    spec = "hf://datasets/ann/other"
    argv = ["train", "--config", "from_scratch", f"--config.data={spec}", "--workdir"]
    code, _, err = run(capsys, *argv, tmp_path / "w")
    assert code == 2
    assert err == (
        f"tljax: {spec} is not in the hub's cache and TLJAX_OFFLINE forbids the network;"
        " unset TLJAX_OFFLINE, or name a copy with hf:FOLDER\n"
    )
    with pytest.raises(InputError, match="is no address of a data set; write hf://datasets/"):
        data.load("hf://ann/pets")


def replaced(column, values):
    def change(table):
        return table.set_column(table.schema.get_field_index(column), column, pa.array(values))

    return change


@pytest.mark.parametrize(
    ("change", "choices", "message"),
    [
        (replaced("label", [0, 1] * 19 + [2, -1]), "", "row 39 of .* has the label 2, which is no"),
        (replaced("label", [0, 1] * 19 + [None] * 2), "", "row 39 of .* has no label"),
        (replaced("label", [{"a": 1}] * 40), "", "row 1 of .* holds a dict where a text or a nu"),
        (replaced("image", [b"x"] * 39 + [None]), "", "row 40 of .* has no path"),
        (replaced("image", [1] * 40), "", "of the type int64, but paths or the bytes of image"),
        (replaced("image", ["a.png"] * 40), "", "has two labels|of the 40 images .* do not exist"),
        (
            replaced("score", [0.5, 1] * 19 + [np.nan, None]),
            "?numbers=score",
            "2 of the 40 rows .*",
        ),
        (replaced("score", [[1, 2]] * 39 + [[1]]), "?numbers=score", "row 40 .* list of 1 numbers"),
        (replaced("tags", [[]] * 40), "?labels=tags", "no image of .* has a label in tags"),
        (
            lambda table: table.drop(["label", "tags"]),
            "",
            "no column of .* is the label: its header is",
        ),
        (lambda table: table.drop(["image"]), "", "no column of .* is the image: its header is"),
        (lambda table: table.slice(0, 0), "", "has no rows; add a row for each image"),
    ],
)
def test_tables_that_cannot_be_used(change, choices, message, photos):
    pq.write_table(change(table_of(photos)), photos / "p.parquet")
    with pytest.raises(InputError, match=message):
        data.load(f"parquet:{photos / 'p.parquet'}{choices}")


def test_lists_of_0_and_1_and_of_numbers(photos):
    hot = [[number & 1, number >> 1 & 1, 0] for number in range(40)]
    table = replaced("tags", hot)(table_of(photos).replace_schema_metadata(None))
    table = replaced("score", [[0.5 * number, -number] for number in range(40)])(table)
    pq.write_table(table, photos / "p.parquet")
    several = data.load(f"parquet:{photos / 'p.parquet'}?labels=tags", val_fraction=0)
    assert several.class_names == ("0", "1", "2")
    numbers = [int(name) for name in several.test.labels.sum(0)]
    assert numbers[2] == 0
    assert several.train.labels.sum(0).tolist()[:2] == [20 - numbers[0], 20 - numbers[1]]
    two = data.load(f"parquet:{photos / 'p.parquet'}?numbers=score")
    assert two.class_names == ("score[0]", "score[1]")
    assert (two.train.labels[:, 1] == -2 * two.train.labels[:, 0]).all()


def write_splits(photos, place, names, noted="file"):
    """A Parquet file, or the Arrow file of a saved data set, for each split.

    Args:
      names: By split, the classes in their order; None: the file does not note them.
      noted: Where they are noted, in the `file` or in its `folder`.
    """
    place.mkdir()
    (place / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}))
    for split, classes in names.items():
        table = table_of(photos, rows=SPLIT_ROWS[split], names=classes or ())
        info = json.loads(table.schema.metadata[b"huggingface"])["info"]
        if classes is None or noted == "folder":
            table = table.replace_schema_metadata(None)
        (place / split).mkdir()
        if noted == "file":
            pq.write_table(table, place / f"{split}.parquet")
            continue
        with pa.ipc.new_file(str(place / split / "data.arrow"), table.schema) as writer:
            writer.write_table(table)
        state = {"_data_files": [{"filename": "data.arrow"}]}
        (place / split / "state.json").write_text(json.dumps(state))
        (place / split / "dataset_info.json").write_text(json.dumps(info))
    return f"{'parquet' if noted == 'file' else 'hf'}:{place}"


@pytest.mark.parametrize("noted", ["file", "folder"])
def test_files_that_number_the_classes_differently_are_refused(noted, photos):
    names = {"train": ("zebra", "ant"), "test": ("ant", "zebra")}
    spec = write_splits(photos, photos / "p", names, noted)
    with pytest.raises(InputError, match=r"test.* and .*number the classes of 'label' different"):
        data.load(spec)
    assert data.load(f"{spec}?numbers=score").kind == "regression", "then labels do not matter"


def test_files_may_note_further_classes_or_none(photos, caplog):
    names = {"train": ("zebra", "ant", "bee"), "validation": None, "test": ("zebra", "ant")}
    dataset = data.load(write_splits(photos, photos / "p", names))
    assert dataset.class_names == ("zebra", "ant", "bee")
    for split, rows in SPLIT_ROWS.items():
        source = getattr(dataset, split[:3] if split == "validation" else split)
        assert source.labels.tolist() == [number // 4 % 2 for number in rows]
    assert "1 of the 3 files, e.g. " in caplog.text
    assert "validation.parquet, do not name the classes of 'label'" in caplog.text


PATTERNS = ["{train,test}/*", "*/*", "*/part-0", "**/*", "{train/part,test/part}-0"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_folders_that_a_pattern_chooses_tell_the_splits(pattern, photos, monkeypatch):
    for split in ("train", "test"):
        (photos / "p" / split).mkdir(parents=True)
        table = table_of(photos, rows=SPLIT_ROWS[split])
        pq.write_table(table, photos / "p" / split / "part-0.parquet")
    monkeypatch.chdir(photos / "p")
    for place in (f"{photos}/p/", ""):
        dataset = data.load(f"parquet:{place}{pattern}.parquet", val_fraction=0)
        assert [len(dataset.train), len(dataset.test)] == [28, 8]
    (photos / "p" / "test" / "part-0.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match=r"cannot read .*test/part-0.parquet"):
        data.load(f"parquet:{photos}/p/{pattern}.parquet")


def test_a_folder_that_a_pattern_does_not_choose_tells_no_split(photos):
    (photos / "train").mkdir()
    for part in (0, 1):
        rows = range(20 * part, 20 * part + 20)
        pq.write_table(table_of(photos, rows=rows), photos / "train" / f"part-{part}.parquet")
    dataset = data.load(f"parquet:{photos}/train/*.parquet", val_fraction=0)
    assert len(dataset.test) == 8, "a fifth was split off"


def test_files_of_other_tables_and_names_are_refused(photos):
    (photos / "p").mkdir()
    with pytest.raises(InputError, match=r"holds no .parquet files; check the path"):
        data.load(f"parquet:{photos / 'p'}")
    with pytest.raises(InputError, match="if it is a folder of images, write folder:"):
        data.load(f"hf:{photos / 'p'}")
    pq.write_table(table_of(photos), photos / "p" / "train.parquet")
    pq.write_table(table_of(photos), photos / "p" / "more.parquet")
    with pytest.raises(InputError, match=r"'more.parquet' has no split in its name; r"):
        data.load(f"parquet:{photos / 'p'}")
    with pytest.raises(InputError, match=r"no file is called .*x-.*; check the path"):
        data.load(f"parquet:{photos / 'p'}/x-*.parquet")
    table = table_of(photos).drop(["label"])
    pq.write_table(table, photos / "p" / "test.parquet")
    with pytest.raises(InputError, match=r"test.parquet lacks the column 'label', which train"):
        data.load(f"parquet:{photos / 'p'}/{{train,test}}.parquet")
    (photos / "p" / "train.parquet").write_bytes(b"path,label")
    with pytest.raises(InputError, match=r"cannot read .*train.parquet as a Parquet file"):
        data.load(f"parquet:{photos / 'p'}/train.parquet")


# --- WebDataset ----------------------------------------------------------------------------------


def samples_of(photos, label, suffix="cls"):
    found = {}
    for number in range(40):
        found[f"a/{number:02}.x.png"] = (photos / f"images/{number}.png").read_bytes()
        found[f"a/{number:02}.{suffix}"] = str(label(number)).encode()
    return found


@pytest.mark.parametrize(
    ("suffix", "label", "choices", "kind"),
    [
        ("cls", lambda number: 8 + number % 3, "", "classes"),
        ("txt", lambda number: f"c{number % 3}", "", "classes"),
        ("json", lambda number: json.dumps(number % 3), "", "classes"),
        ("x.cls", lambda number: number % 3, "?label=x.cls", "classes"),
        ("txt", lambda number: TAGS[number % 4], "?labels=txt", "multi_label"),
        (
            "json",
            lambda number: json.dumps(["a", "b"][: number % 3]),
            "?labels=json",
            "multi_label",
        ),
        ("txt", lambda number: number / 3, "?numbers=txt", "regression"),
    ],
)
def test_labels_of_samples(suffix, label, choices, kind, photos):
    write_tar(photos / "x.tar", samples_of(photos, label, suffix))
    dataset = data.load(f"wds:{photos / 'x.tar'}{choices}")
    assert dataset.kind == kind
    if suffix == "cls":
        assert dataset.class_names == ("8", "9", "10")
    assert dataset.train[0]["image"].shape == (24, 20, 3)


@pytest.mark.parametrize(
    ("change", "choices", "message"),
    [
        ({"a/07.cls": None}, "", "the sample 'a/07' of x.tar of .* has no label; fill it"),
        ({"a/07.y.png": b"x"}, "", r"sample 'a/07' .* has 2 images \(x.png, y.png\); choose one"),
        ({"a/07.y.png": b"x"}, "?image=y.png", "has no image .y.png; add it or remove it"),
        ({"a/07.json": b"{"}, "", r"sample 'a/07' of x.tar, .json, cannot be read"),
        ({}, "?label=breed", "has no column 'breed'; its header is image, cls"),
        ({}, "?numbers=json", "has no column 'json'"),
    ],
)
def test_samples_that_cannot_be_used(change, choices, message, photos):
    samples = samples_of(photos, lambda number: number % 2)
    for name, content in change.items():
        if content is None:
            del samples[name]
        else:
            samples[name] = content
    write_tar(photos / "x.tar", samples)
    with pytest.raises(InputError, match=message):
        data.load(f"wds:{photos / 'x.tar'}{choices}")


def test_tars_that_cannot_be_used(photos, caplog):
    samples = samples_of(photos, lambda number: number % 2)
    write_tar(photos / "x.tar.gz", samples, "w:gz")
    with pytest.raises(InputError, match=r"it is compressed\); decompress it, so that its images"):
        data.load(f"wds:{photos / 'x.tar.gz'}")
    (photos / "x.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match=r"it is truncated or no tar\); copy it again"):
        data.load(f"wds:{photos / 'x.tar'}")
    write_tar(photos / "x.tar", {"a.cls": b"1"})
    with pytest.raises(InputError, match="holds no images; are these the tars of a WebDataset"):
        data.load(f"wds:{photos / 'x.tar'}")
    with pytest.raises(InputError, match="is a web address, whose files cannot be listed"):
        data.load("wds:https://example.org/{000..009}.tar")
    write_tar(photos / "x.tar", {**samples, "README.txt": b"hello"})
    dataset = data.load(f"wds:{photos / 'x.tar'}")
    assert "1 samples of wds:" in caplog.text
    whole = (photos / "x.tar").read_bytes()
    (photos / "x.tar").write_bytes(whole[: len(whole) // 8])
    with pytest.raises(InputError, match=r"x.tar ends within it; copy it again"):
        list(map(dataset.train.__getitem__, range(len(dataset.train))))


def test_shards_at_an_address_are_copied(photos, listed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(photos / "cache"))
    system = fsspec.filesystem("memory")
    as_tars(photos, photos / "data", None)
    system.put(str(photos / "data"), "/shards/", recursive=True)
    try:
        place = "memory://shards/data"
        shards = f"wds:{place}/{{train,validation,test}}-{{000..001}}.tar"
        for spec in (shards, f"wds:{place}", f"wds:{place}/*.tar"):
            assert data.absolute(spec) == spec
            assert in_splits(data.load(spec)) == in_splits(data.load(listed))
        first = data.load(f"wds:{place}/*-000.tar?numbers=score")
        assert [len(getattr(first, split)) for split in kept.SPLITS] == [3, 3, 3]
        with pytest.raises(InputError, match=r"memory://shards/data/train-002.tar does not exist"):
            data.load(f"wds:{place}/train-{{000..002}}.tar")
    finally:
        system.rm("/shards", recursive=True)


# --- frames --------------------------------------------------------------------------------------


class Column(list):
    """As a column of a DataFrame."""

    def tolist(self):
        return list(self)


class Frame:
    """As much as a DataFrame has of what is used: `columns`, and columns by name."""

    def __init__(self, columns):
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, name):
        return Column(self._columns[name])


@pytest.mark.parametrize("kind", [dict, Frame, pa.table])
@pytest.mark.parametrize("images", ["path", "bytes", "struct"])
def test_a_table_in_python(kind, images, photos):
    columns = table_of(photos, images=images).to_pydict()
    columns["split"] = [split_at(number) for number in range(40)]
    columns["label"] = [("zebra", "ant")[label] for label in columns["label"]]
    frame = kind(columns)
    dataset = data.from_table(frame, path="image", folder=photos)
    rows = [
        {"path": f"images/{n}.png", "label": label, "split": split_at(n)}
        for n, label in enumerate(columns["label"])
    ]
    assert in_splits(dataset) == in_splits(data.load(write(photos, rows)))
    assert np.bincount(data.groups_of(dataset.train)).tolist() == [4] * 7
    numbers = data.from_table(frame, path="image", numbers=["score"], folder=photos)
    assert (numbers.kind, numbers.class_names) == ("regression", ("score",))
    several = data.from_table(frame, path="image", labels="tags", folder=photos)
    assert (several.kind, several.class_names) == ("multi_label", ("0", "1"))


def test_tables_in_python_that_cannot_be_used(photos):
    columns = {"path": [f"images/{n}.png" for n in range(40)], "label": ["a", "b"] * 20}
    with pytest.raises(InputError, match="a list is no table; pass a DataFrame, or a dict of"):
        data.from_table([1, 2])
    with pytest.raises(
        InputError, match=r"no column of the table is the label: .*; pass label=COL"
    ):
        data.from_table({"path": columns["path"]})
    with pytest.raises(InputError, match="the 40 images in the table do not exist"):
        data.from_table(columns, folder=photos / "images")
    columns["label"][3] = float("nan")  # as pandas has a missing text
    with pytest.raises(InputError, match="row 4 of the table has no label"):
        data.from_table(columns, folder=photos)
    with pytest.raises(InputError, match="the table has no column 'breed'"):
        data.from_table(columns, label="breed", folder=photos)
    with pytest.raises(InputError, match="row 40 is missing in the column 'label'"):
        data.from_table({**columns, "label": columns["label"][:39]}, folder=photos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "label", "labels": "tags"}, "from_table chooses label and labels; keep label"),
        ({"labels": "tags", "numbers": "x"}, "from_table chooses labels and numbers; keep label"),
        ({"labels": []}, "labels is empty; name a column, or leave it out"),
        ({"numbers": ""}, "numbers is empty; name a column, or leave it out"),
        ({"labels": ["y", "z"]}, "the table has no column 'y'"),
        ({"separator": ";"}, "from_table chooses a separator, but no labels=COLUMN"),
        ({"labels": "tags", "separator": "semi"}, "the separator 'semi' in from_table is not one"),
        ({"channels": 0}, "channels is 0; set it to 1 or more, or leave it out for RGB"),
        ({"deep_images": "own"}, "there is no deep_images 'own'"),
        ({"val_fraction": 1}, "val_fraction is 1; set it to 0 or more, and below 1"),
        ({"seed": -1}, "seed is -1; set it to 0 or more"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message, photos):
    with pytest.raises(InputError, match=message):
        data.from_table({**TABLE, "y+z": [0] * 40}, folder=photos, **arguments)


TABLE = {
    "path": [f"images/{n}.png" for n in range(40)],
    "label": ["a", "b"] * 20,
    "tags": ["a;b", "b"] * 20,
    "x": [n / 7 for n in range(40)],
}


def test_separators_and_channels_of_a_table_in_python(photos):
    for separator in (";", "semicolon"):
        tags = data.from_table(TABLE, labels="tags", separator=separator, folder=photos)
        assert tags.class_names == ("a", "b")
        assert tags.train.labels.mean(0).tolist() == [0.5, 1]
    grey = [Image.open(photos / path).convert("L") for path in TABLE["path"]]
    for path, image in zip(TABLE["path"], grey, strict=True):
        image.save(photos / path)
    dataset = data.from_table(TABLE, label="label", folder=photos, channels=1)
    assert dataset.train[0]["image"].shape == (*np.asarray(grey[0]).shape, 1)


# --- the commands of the documentation -----------------------------------------------------------

PAGE = (REPOSITORY / "docs" / "data.md").read_text()
COMMANDS = commands(PAGE.partition("A command for each:")[2].partition("## ")[0])
SHORT = [
    *(
        "--config.steps=1",
        "--config.batch_size=8",
        "--config.image_size=16",
        "--config.eval_every=1",
    ),
    *("--config.train_size=8", "--config.accept_source=True", "--config.last_group=layer1_0"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    argv = ["train", *config("from_scratch"), "--workdir", str(workdir), *SHORT]
    assert cli.main([*argv, "--config.data=embedded:digits", "--config.val_fraction=0.01"]) == 0
    return workdir


def test_every_form_has_a_command():
    forms = [re.search(r"--config.data=(\w+)", command)[1] for command in COMMANDS]
    assert set(forms) == {"folder", "csv", "parquet", "hf", "wds", "embedded"}, "tfds: test_tfds.py"
    assert len(COMMANDS) == 9


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.rpartition("=")[2][:20])
def test_the_commands_of_the_forms(command, source, photos, hub, monkeypatch, capsys):
    """Each trains on small files that are called as the command calls them."""
    monkeypatch.chdir(photos)
    (photos / "runs" / "demo").mkdir(parents=True)
    (photos / "runs" / "demo" / "source").symlink_to(source)
    (photos / "configs").symlink_to(REPOSITORY / "configs")
    made = {
        "folder:": lambda: as_folder(photos, photos / "pets"),
        "csv:": lambda: write(
            photos, [{**row, "age": n / 7} for n, row in with_labels()], "pets.csv"
        ),
        "parquet:": lambda: pq.write_table(table_of(photos), photos / "pets.parquet"),
        "hf:pets": lambda: as_saved(photos, photos / "pets_saved", "struct"),
        "wds:": lambda: [
            write_tar(photos / "shards" / f"train-{part:03}.tar", samples)
            for part, samples in enumerate(parts_of(photos, 4))
        ],
    }
    (photos / "shards").mkdir()
    for place, make in made.items():
        if f"data={place}" in command:
            make()
    code, out, err = run(capsys, *shlex.split(command), *SHORT)
    assert code == 0, err
    assert re.search(r"test (accuracy|mean average precision|R2) ", out)


def with_labels():
    for number, row in enumerate(tagged()):
        yield number, {**row, "label": ("cat", "dog")[number // 4 % 2]}


def as_folder(photos, place):
    for number in range(40):
        folder = place / ("cat", "dog")[number // 4 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").symlink_to(photos / f"images/{number}.png")


def parts_of(photos, count):
    samples = list(samples_of(photos, lambda number: number % 2).items())
    return [dict(samples[20 * part : 20 * part + 20]) for part in range(count)]


def test_hidden_files_of_a_tar_are_no_samples(photos):
    samples = samples_of(photos, lambda number: number % 2)
    hidden = {f"a/._{name.removeprefix('a/')}": b"\xff" for name in samples}
    write_tar(photos / "x.tar", samples | hidden)
    assert len(data.load(f"wds:{photos / 'x.tar'}", val_fraction=0).train) == 32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda label: float(label), None),  # as pandas writes a column with empty cells
        (lambda label: ("zebra", "ant")[label], None),
        (lambda label: "bird", "has the label bird, which is none of its 2 classes"),
        (lambda label: 0.5, "has the label 0.5, which is none of its 2 classes"),
    ],
)
def test_labels_beside_noted_classes(labels, message, photos):
    table = table_of(photos)
    column = pa.array([labels(label) for label in table["label"].to_pylist()])
    pq.write_table(table.set_column(1, "label", column), photos / "x.parquet")
    spec = f"parquet:{photos / 'x.parquet'}?label=label"
    if message:
        with pytest.raises(InputError, match=message):
            data.load(spec)
    else:
        dataset = data.load(spec, val_fraction=0)
        assert dataset.class_names == ("zebra", "ant")
        assert np.bincount(dataset.train.labels).tolist() == [16, 16]
