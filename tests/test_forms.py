"""Forms of tables: Parquet, Hugging Face, WebDataset and frames hold the images that a CSV lists."""

import hashlib
import io
import json
import logging
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_table import photos, rows_of, tagged, write  # noqa: F401
from tljax import data
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
def listed(photos):  # noqa: F811
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
    photos,  # noqa: F811
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


def test_images_of_a_parquet_file_are_copied_once(photos, monkeypatch):  # noqa: F811
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
    next(f for f in before if f.suffix == ".bin").write_bytes(b"")
    assert in_splits_without_val(data.load(f"parquet:{photos / 'p.parquet'}", val_fraction=0)) == (
        in_splits_without_val(data.load(f"parquet:{photos / 'p.parquet'}", val_fraction=0))
    )
    pq.write_table(table_of(photos, rows=range(20)), photos / "p.parquet")
    assert len(data.load(f"parquet:{photos / 'p.parquet'}", val_fraction=0).train) == 16
    (photos / "cache").rename(photos / "old")
    (photos / "cache").touch()
    with pytest.raises(InputError, match=r"cannot copy the images of .*set XDG_CACHE_HOME"):
        data.load(f"parquet:{photos / 'p.parquet'}")


def in_splits_without_val(dataset):
    return [dataset.train[i]["image"].tobytes() for i in range(len(dataset.train))]
