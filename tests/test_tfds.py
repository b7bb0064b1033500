"""`tfds:` data: prepared folders of small builders, read without TensorFlow."""

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from tests.tfds_builders import CLASSES, SIZES, Damaged, Failing, Plain, Shapes, label, pixels
from tljax import cli, data
from tljax.data import Subset, remote
from tljax.data.folder import FolderSource
from tljax.errors import InputError

SMALL = data.Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data_dir with every builder's data; `shapes` has three shards per split."""
    root = tmp_path_factory.mktemp("tensorflow_datasets")
    sharded = tfds.download.DownloadConfig(num_shards=3)
    Shapes(data_dir=root).download_and_prepare(file_format="array_record", download_config=sharded)
    for builder in (
        Damaged(data_dir=root),
        *(Plain(data_dir=root, config=c) for c in ("all", "half")),
    ):
        builder.download_and_prepare(file_format="array_record")
    return root


# --- TFRecord files, written by hand -----------------------------------------------------------


def crc32c(content):
    """CRC-32C by definition, bit by bit: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def framed(record):
    def masked(content):
        crc = crc32c(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def test_the_frames_are_those_that_tensorflow_writes():
    """Written by `tf.io.TFRecordWriter(...).write(b"tljax")`, TensorFlow 2.21.0."""
    assert framed(b"tljax").hex() == "0500000000000000eab2043e746c6a6178ab874435"


@pytest.fixture(scope="module")
def tfrecord_dir(data_dir, tmp_path_factory):
    """The records of `shapes` and `damaged`, in TFRecord files."""
    root = tmp_path_factory.mktemp("tfrecords")
    for name in ("shapes", "damaged"):
        there = data_dir / name / "1.0.0"
        here = root / name / "1.0.0"
        here.mkdir(parents=True)
        for file in (*there.glob("*.json"), *there.glob("*.txt")):
            text = file.read_text().replace('"array_record"', '"tfrecord"')
            (here / file.name).write_text(text)
        builder = tfds.builder_from_directory(there)
        for split, info in builder.info.splits.items():
            for shard, file in enumerate(info.filepaths):
                raw = builder.as_data_source(
                    f"{split}[{shard}shard]",
                    deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                )
                content = b"".join(framed(record) for record in raw)
                (here / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    return root


@pytest.fixture(params=["array_record", "tfrecord"])
def prepared(request, data_dir, tfrecord_dir):
    """The data in both formats; they must be equal."""
    return str({"array_record": data_dir, "tfrecord": tfrecord_dir}[request.param])


def numbers(source, split="train"):
    """Numbers of the images that a source holds, in order; each is compared bitwise."""
    known = {pixels(i, split).tobytes(): i for i in range(SIZES[split])}
    return [known[source[i]["image"].tobytes()] for i in range(len(source))]


# --- what is read ------------------------------------------------------------------------------


def test_splits_labels_and_images_are_those_that_were_prepared(prepared):
    dataset = data.load("tfds:shapes", data_dir=prepared)
    assert dataset.class_names == data.read_class_names("tfds:shapes", prepared) == CLASSES
    assert sorted(numbers(dataset.train) + numbers(dataset.val)) == list(range(24))
    assert numbers(dataset.test, "test") == list(range(9))
    for source, split in ((dataset.train, "train"), (dataset.test, "test")):
        labels = [label(i) for i in numbers(source, split)]
        assert source.labels.tolist() == labels
        assert [source[i]["label"] for i in range(len(source))] == labels
        assert source[-1]["label"] == labels[-1]


@pytest.mark.parametrize(
    ("choices", "train", "val", "test"),
    [
        (
            "train=train[:10],val=train[10:14],test=train[20:]",
            range(10),
            range(10, 14),
            range(20, 24),
        ),
        ("train=train[:50%],val=train[-25%:],test=test", range(12), range(18, 24), None),
        (
            "train=train[20:]+train[:3],val=train[1shard]",
            [*range(20, 24), 0, 1, 2],
            range(8, 16),
            None,
        ),
    ],
)
def test_slices_are_those_of_tfds(prepared, choices, train, val, test):
    dataset = data.load(f"tfds:shapes?{choices}", data_dir=prepared)
    assert numbers(dataset.train) == list(train)
    assert numbers(dataset.val) == list(val)
    if test is None:  # the default
        assert numbers(dataset.test, "test") == list(range(9))
    else:
        assert numbers(dataset.test) == list(test)


def test_a_split_that_is_chosen_for_one_thing_is_no_default_for_another(prepared):
    dataset = data.load("tfds:shapes?val=test", data_dir=prepared)
    assert numbers(dataset.val, "test") == list(range(9))
    train, test = numbers(dataset.train), numbers(dataset.test)
    assert sorted(train + test) == list(range(24))
    again = data.load("tfds:shapes?val=test", data_dir=prepared, seed=1)
    assert numbers(again.test) == test, "the test split belongs to the data"


@pytest.mark.parametrize(
    ("spec", "classes", "count"),
    [
        ("shapes?label=parity", ("even", "odd"), 9),
        ("shapes:1.*.*?image=grey", CLASSES, 9),
        ("shapes:1.0.0", CLASSES, 9),
        ("plain?train=all_of_it", CLASSES, 3),
        ("plain/half:2.1.0?train=all_of_it[:10],test=all_of_it[15:]", CLASSES, 5),
        ("tests.tfds_builders.Shapes", CLASSES, 9),
        ("tests.tfds_builders.Plain/half?train=all_of_it", CLASSES, 3),
    ],
)
def test_names_configs_versions_builders_and_features(data_dir, spec, classes, count):
    dataset = data.load(f"tfds:{spec}", data_dir=str(data_dir))
    assert dataset.class_names == classes
    assert len(dataset.test) == count
    assert dataset.test[0]["image"].shape[2] == 3
    assert dataset.test[0]["label"] == dataset.test.labels[0]


def test_a_prepared_folder_is_given_by_its_path_too(prepared, monkeypatch):
    folder = Path(prepared) / "shapes" / "1.0.0"
    by_path = data.load(f"tfds:{folder}?val=train[:6],train=train[6:]").train
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    by_name = data.load("tfds:shapes?val=train[:6],train=train[6:]").train
    assert numbers(by_path) == numbers(by_name) == list(range(6, 24))
    assert data.fingerprint(by_path) == data.fingerprint(by_name)


def test_batches_are_those_of_a_folder_of_the_same_images(prepared, tmp_path):
    files = []
    for i in range(24):
        file = tmp_path / CLASSES[label(i)] / f"{i:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(i)).save(file)
        files.append(file)
    folder = FolderSource(files, [label(i) for i in range(24)])
    records = data.load("tfds:shapes?train=train,val=test", data_dir=prepared).train
    assert isinstance(records, Subset)
    records = pickle.loads(pickle.dumps(records.source))  # as for a worker process
    batches = [
        data.train_batches(source, SMALL, batch_size=5, seed=3, augment="crop_flip")
        for source in (folder, records)
    ]
    for _ in range(6):
        one, other = (next(b) for b in batches)
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])
    for b in batches:
        b.close()


# --- changes and damage ------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(prepared, tmp_path):
    def of(root, spec="shapes", split="train"):
        return data.fingerprint(getattr(data.load(f"tfds:{spec}", data_dir=str(root)), split))

    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    assert of(copy) == of(prepared)
    assert of(copy, "shapes?train=train[:20]") != of(copy)
    assert of(copy, "shapes?label=parity", "test") != of(copy, split="test")
    shard = next((copy / "shapes" / "1.0.0").glob("shapes-test*00000*"))
    content = bytearray(shard.read_bytes())
    at = content.index(b"IDAT") + 20  # within the pixels of an image
    content[at] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(0, 0))
    if "array_record" in shard.name:  # its checksums show damage
        with pytest.raises(InputError, match="its record is damaged"):
            of(copy)
        return
    assert of(copy) == of(prepared)
    assert of(copy, split="test") != of(prepared, split="test")


def test_labels_are_kept_and_a_damaged_copy_of_them_is_not_used(data_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = "tfds:shapes?train=train[:20],val=train[20:]"
    first = data.load(spec, data_dir=str(data_dir)).train.labels
    kept = sorted((tmp_path / "tljax" / "tfds" / "labels").iterdir())
    assert len(kept) == 3
    for file in kept:
        file.write_bytes(file.read_bytes()[:50])
    assert data.load(spec, data_dir=str(data_dir)).train.labels.tolist() == first.tolist()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert data.load(spec, data_dir=str(data_dir)).train.labels.tolist() == first.tolist()


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_an_image_that_cannot_be_read_is_named(kind, data_dir, tfrecord_dir):
    root = data_dir if kind == "array_record" else tfrecord_dir
    dataset = data.load("tfds:damaged?val=train[20:],train=train[:20]", data_dir=str(root))
    with pytest.raises(
        InputError, match=r"^cannot read image tfds:damaged train\[8\]: it is trunc"
    ):
        dataset.train[8]
    batches = data.eval_batches(dataset.test, SMALL, batch_size=4, on_error="skip")
    assert sum(batch["mask"].sum() for batch in batches) == 7
    assert batches.skipped == ("tfds:damaged test[3]", "tfds:damaged test[8]")


def edited(root, tmp_path):
    copy = tmp_path / "edited"
    shutil.copytree(root, copy)
    return copy, copy / "shapes" / "1.0.0"


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-3]), "is truncated or not a TFRecord"),
        (lambda file: file.write_bytes(b"text" * 99), "is truncated or not a TFRecord file"),
        (lambda file: file.write_bytes(b""), "holds 0 records, not the 3 that are described"),
        (lambda file: file.unlink(), "lacks 1 of its files"),
    ],
)
def test_damaged_tfrecords(harm, sentence, tfrecord_dir, tmp_path):
    copy, folder = edited(tfrecord_dir, tmp_path)
    harm(folder / "shapes-test.tfrecord-00001-of-00003")
    with pytest.raises(InputError, match=sentence):
        data.load("tfds:shapes", data_dir=str(copy))


def test_a_damaged_array_record(data_dir, tmp_path):
    copy, folder = edited(data_dir, tmp_path)
    shard = folder / "shapes-test.array_record-00001-of-00003"
    content = bytearray(shard.read_bytes())
    at = content.index(b"IDAT")
    content[at : at + 400] = bytes(400)
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"tfds:shapes test\[\d\] cannot be read: its record is"):
        data.load("tfds:shapes", data_dir=str(copy))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (('"array_record"', '"riegeli"'), "tfds convert_format --dataset_version_dir"),
        (("{", ""), "cannot read the description"),
        (("tensorflow_datasets.core.features.text_feature.Text", "os.Evil"), "class os.Evil"),
        (("tensorflow_datasets.core", "tensorflow_datasets.nowhere"), "cannot read the descr"),
    ],
)
def test_descriptions_that_cannot_be_used(edit, sentence, data_dir, tmp_path):
    copy, folder = edited(data_dir, tmp_path)
    for file in folder.glob("*.json"):
        text = file.read_text()
        if edit[0] in text and (edit[0] != "{" or file.name == "dataset_info.json"):
            file.write_text(text.replace(edit[0], edit[1], 1))
    with pytest.raises(InputError, match=sentence):
        data.load("tfds:shapes", data_dir=str(copy))


# --- somewhere else ----------------------------------------------------------------------------


@pytest.fixture
def bucket(prepared):
    """The data at an address, on a file system that fsspec reads like a bucket."""
    system = fsspec.filesystem("memory")
    system.put(prepared, "/bucket/data", recursive=True)
    yield "memory://bucket/data"
    system.rm("/bucket", recursive=True)


def test_of_data_behind_an_address_the_shards_that_are_needed_are_copied(
    bucket, prepared, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = "tfds:shapes?train=train[:5],val=train[6:8],test=test[:3]"
    dataset = data.load(spec, data_dir=bucket)
    assert numbers(dataset.train) == list(range(5))
    local = data.load(spec, data_dir=prepared)
    assert data.fingerprint(dataset.train) == data.fingerprint(local.train)

    def shards():
        return {f.name: f.stat().st_mtime_ns for f in tmp_path.rglob("*-of-00003")}

    first = shards()
    assert {name.replace("tfrecord", "array_record") for name in first} == {
        f"shapes-{split}.array_record-00000-of-00003" for split in ("train", "test")
    }
    data.load(spec, data_dir=bucket)
    assert shards() == first, "local shards are not copied again"
    system = fsspec.filesystem("memory")
    changed = next(name for name in first if "train" in name)
    where = f"/bucket/data/shapes/1.0.0/{changed}"
    system.pipe(where, system.cat(where))
    data.load(f"tfds:{bucket}/shapes/1.0.0?train=train[:5],val=train[6:8],test=test[:3]")
    assert {name for name, when in shards().items() if when != first[name]} == {changed}


class Dated(LocalFileSystem):
    """A file system whose entries have the keys of S3's: a file's version is its date and ETag."""

    protocol = "dated"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("dated://"))

    def ls(self, path, detail=False, **kwargs):
        entries = [
            {
                **{key: entry[key] for key in ("name", "size", "type")},
                "LastModified": entry["mtime"],
                "ETag": hashlib.sha256(Path(entry["name"]).read_bytes()).hexdigest(),
            }
            for entry in super().ls(path, detail=True, **kwargs)
        ]
        return entries if detail else [entry["name"] for entry in entries]


def test_a_file_that_changes_and_keeps_its_size_is_copied_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.register_implementation("dated", Dated, clobber=True)
    (tmp_path / "data").mkdir()
    shard = tmp_path / "data" / "shard"

    def fetched():
        copy = remote.LocalCopy(f"dated://{tmp_path}/data")
        copy.fetch(["shard"])
        return (copy.folder / "shard").read_text(), (copy.folder / "shard").stat().st_mtime_ns

    shard.write_text("one")
    first = fetched()
    assert first[0] == "one"
    assert fetched() == first, "it is not copied again"
    shard.write_text("two")
    assert fetched()[0] == "two"


def test_what_is_not_behind_an_address_is_said(bucket, monkeypatch):
    with pytest.raises(
        InputError, match=r"not prepared in memory://bucket/data; run .tljax prepare"
    ):
        data.load("tfds:mnist", data_dir=bucket)
    fsspec.filesystem("memory").rm("/bucket/data/shapes/1.0.0/*-train*00001*")
    with pytest.raises(InputError, match=r"shapes-train.*00001-of-00003 does not exist"):
        data.load("tfds:shapes", data_dir=bucket)
    monkeypatch.setenv("TLJAX_OFFLINE", "1")
    with pytest.raises(InputError, match="TLJAX_OFFLINE forbids the network"):
        data.load("tfds:shapes", data_dir=bucket)


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_google_cloud_storage_needs_its_driver():
    with pytest.raises(InputError, match=r"pip install -c constraints.txt '\.\[gcs\]'"):
        remote.list_folders("gs://bucket/data")


# --- tljax prepare -----------------------------------------------------------------------------


def test_prepare_makes_what_is_read(tmp_path, capsys):
    argv = ["prepare", "tfds:tests.tfds_builders.Shapes?label=parity", "--data_dir", str(tmp_path)]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"prepared {tmp_path}/shapes/1.0.0"
    assert numbers(data.load("tfds:shapes", data_dir=str(tmp_path)).test, "test") == [*range(9)]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == f"there already: {tmp_path}/shapes/1.0.0\n"


def test_a_preparation_that_breaks_off_leaves_nothing(tmp_path, capsys):
    root = tmp_path / "new" / "folder"
    assert Failing.name == "failing"
    argv = ["prepare", "tfds:tests.tfds_builders.Failing", "--data_dir", str(root)]
    assert cli.main(argv) == 2
    assert "cannot prepare tfds:tests.tfds_builders.Failing: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- whole runs, without TensorFlow ------------------------------------------------------------


def test_train_and_evaluate_where_tensorflow_may_not_be_imported(data_dir, tfrecord_dir, tmp_path):
    """Trains from array_record files, and evaluates from TFRecord files."""
    blocked = tmp_path / "blocked"
    (blocked / "tensorflow").mkdir(parents=True)
    (blocked / "tensorflow" / "__init__.py").write_text(
        "raise RuntimeError('tensorflow is not to be imported')\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(blocked), str(REPOSITORY)]),
    }

    def tljax(*argv):
        command = [sys.executable, "-m", "tljax.cli", *argv]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run = tmp_path / "run"
    tljax(
        *("train", "--config", str(REPOSITORY / "configs" / "from_scratch.py")),
        *("--workdir", str(run), "--config.steps=2", "--config.batch_size=8"),
        *("--config.data=tfds:shapes?train=train[:20],val=train[20:]",),
        f"--config.data_dir={data_dir}",
    )
    result = json.loads((run / "result.json").read_text())
    assert (result["num_classes"], result["train_size"], result["test_size"]) == (3, 20, 9)
    argv = ("--data", "tfds:shapes", "--data_dir", str(tfrecord_dir))
    told = tljax("evaluate", "--workdir", str(run), *argv)
    assert f"accuracy {result['test_accuracy']:.4f}" in told
