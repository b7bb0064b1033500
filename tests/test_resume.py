"""A resumed run ends bit-identical to an uninterrupted one, whatever was killed or damaged."""

import dataclasses
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import tljax
from tests.soak.campaign import ROOT, compare, run_campaign
from tests.tiny_networks import NETWORKS, PREPROCESSING
from tests.watched import Watched
from tljax import cli, experiment
from tljax import data as data_lib
from tljax.data import Preprocessing
from tljax.devices.background import Background
from tljax.devices.preemption import Interrupted, Preempted
from tljax.errors import InputError
from tljax.files import temporary_path
from tljax.runs.checkpoints import Checkpoint, Checkpoints, DamagedCheckpoint
from tljax.runs.resume import best_variables
from tljax.runs.workdir import locked

MODEL = NETWORKS["resnet"].clone(widths=(32,))  # its arrays are the largest files of a checkpoint
SMALL = ("--config.model=resnet10_32", "--config.last_group=layer1_0", "--config.image_size=16")
OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 16,
    "steps": 12,
    "eval_every": 4,
    "checkpoint_every": 2,
    "keep": 2,
    "log_every": 3,
    "lr": 0.05,
    "augment": "crop",
    "progress": False,
}


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=50)
    some = {split: data_lib.Subset(getattr(whole, split), range(64)) for split in ("val", "test")}
    return dataclasses.replace(whole, **some)


@pytest.fixture(scope="module")
def train(digits):
    """train(workdir, images=n, **options): a run that is killed at the n-th image."""
    plan = tljax.from_scratch(MODEL.groups)

    def run(workdir, images=None, **options):
        source = digits.train if images is None else Watched(digits.train, images)
        return tljax.fit(
            MODEL, None, plan, source, digits.val, digits.test, workdir=workdir, **OPTIONS | options
        )

    return run


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    train(workdir)
    return workdir


@pytest.fixture(scope="module")
def dead(train, tmp_path_factory):
    """A workdir whose run was killed after saving its 8th step."""
    workdir = tmp_path_factory.mktemp("dead")
    with pytest.raises(KeyboardInterrupt):
        train(workdir, images=16 * 10)
    return workdir


@pytest.fixture
def killed(dead, tmp_path):
    return shutil.copytree(dead, tmp_path / "killed")


def newest(workdir):
    checkpoints = Checkpoints(workdir / "checkpoints")
    return checkpoints.folder(checkpoints.steps()[0])


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)


# --- killed -----------------------------------------------------------------------------------


def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path):
    """A small form of `make soak`: real processes and SIGKILL; SIGTERM has a test of its own."""
    argv = [
        "--config",
        str(ROOT / "configs/from_scratch.py"),
        *(*SMALL, "--config.data=embedded:digits", "--config.train_size=50"),
        *("--config.steps=12", "--config.eval_every=4", "--config.checkpoint_every=2"),
        *("--config.batch_size=16", "--config.log_every=3"),
    ]
    blows = [("save", "SIGKILL")]
    campaign = run_campaign(argv, tmp_path, blows, random.Random(0))
    assert campaign.kills.total() == 1
    assert campaign.differences == []


@pytest.mark.parametrize("held", [False, True], ids=["at once", "later"])
def test_a_checkpoint_holds_what_was_there_when_its_save_began(held, tmp_path):
    """Even if later steps donate and overwrite the arrays before they are written."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = step({f"w{n}": np.full(2**18, n, np.float32) for n in range(8)})
    expected = jax.tree.map(np.array, state)
    background = Background(held)
    checkpoints = Checkpoints(tmp_path, background)
    checkpoints.save(Checkpoint(1, state, state, bookkeeping=None), keep=1)
    for _ in range(20):
        state = jax.block_until_ready(step(state))
    if held:
        assert checkpoints.steps() == []
        background.release()
    checkpoints.finish()
    saved = checkpoints.read(1)
    for name, value in expected.items():
        np.testing.assert_array_equal(saved.variables[name], value)
        np.testing.assert_array_equal(saved.opt_state[name], value)


def test_evaluations_that_are_dense_at_the_start_resume_as_well(train, tmp_path):
    dense = {"eval_every": 8, "eval_dense": True, "checkpoint_every": 5}
    train(tmp_path / "straight", **dense)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", images=16 * 7, **dense)  # with rows after its last checkpoint
    result = train(tmp_path / "killed", **dense)
    validated = [row["step"] for row in result.history if row["event"] == "val"]
    assert validated == [0, 1, 2, 4, 8, 12]
    assert compare(tmp_path / "straight", tmp_path / "killed") == []


def test_sigterm_saves_at_once_and_in_the_middle_of_an_interval(digits, tmp_path):
    """The current step is finished and saved, although no checkpoint is due."""

    count = itertools.count()  # shared by threads

    class Preempting(Watched):
        def __getitem__(self, index):
            if next(count) == 16 * 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    source = Preempting(digits.train)
    plan = tljax.from_scratch(MODEL.groups)
    options = {**OPTIONS, "checkpoint_every": 100, "eval_every": 100, "steps": 90}
    with pytest.raises(Preempted, match="resumes from what was saved"):
        tljax.fit(MODEL, None, plan, source, digits.val, workdir=tmp_path / "run", **options)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert 0 < checkpoints.steps()[0] < 90
    rest = tljax.fit(
        MODEL, None, plan, digits.train, digits.val, workdir=tmp_path / "run", **options
    )
    whole = tljax.fit(
        MODEL, None, plan, digits.train, digits.val, workdir=tmp_path / "whole", **options
    )
    assert rest.history == whole.history, "rows, though an interval was split"
    assert compare(tmp_path / "whole", tmp_path / "run") == []


class CtrlC(logging.Handler):
    """Presses Ctrl-C when a run enters its fifth step."""

    def emit(self, record):
        if record.getMessage() == "phase step, step 5":
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c_in_step_5(caplog):
    caplog.set_level(logging.DEBUG, "tljax")
    press, logger = CtrlC(), logging.getLogger("tljax")
    logger.addHandler(press)
    yield
    logger.removeHandler(press)


@pytest.mark.usefixtures("ctrl_c_in_step_5")
def test_ctrl_c_ends_the_step_and_saves(straight, train, tmp_path):
    with pytest.raises(Interrupted, match="resumes from what was saved"):
        train(tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps()[0] == 5
    train(tmp_path)
    assert compare(straight, tmp_path) == []


@pytest.mark.usefixtures("ctrl_c_in_step_5")
def test_ctrl_c_in_the_command_says_how_to_resume(tmp_path, capsys):
    argv = [
        *("train", "--config", str(ROOT / "configs/from_scratch.py"), "--config.steps=12"),
        *(*SMALL, "--config.data=embedded:digits", "--config.train_size=50"),
        *("--config.eval_every=12", "--config.batch_size=16", "--workdir", str(tmp_path)),
    ]
    assert cli.main(argv) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "tljax: stopped by Ctrl-C; the same command resumes from what was saved"
    assert Checkpoints(tmp_path / "checkpoints").steps()[0] == 5


# --- damaged ----------------------------------------------------------------------------------


def remove_a_file(folder):
    largest_file(folder).unlink()


def truncate_a_file(folder):
    path = largest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def empty_it(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def copy_half(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[len(files) // 2 :]:
        path.unlink()


def flip_a_bit(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def lose_the_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").write_text("{}")


def replace_it_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        remove_a_file,
        truncate_a_file,
        flip_a_bit,
        replace_it_by_a_file,
        *(
            pytest.param(damage, marks=pytest.mark.soak)
            for damage in (empty_it, copy_half, lose_the_metadata)
        ),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_newest_whole_one(
    damage, killed, straight, train, caplog
):
    steps = Checkpoints(killed / "checkpoints").steps()
    damage(newest(killed))
    train(killed)
    assert f"resuming from step {steps[1]}" in caplog.text
    assert (killed / "damaged" / str(steps[0])).exists(), "nothing is deleted"
    shutil.rmtree(killed / "damaged")
    assert compare(straight, killed) == []


def test_a_missing_checkpoint_is_not_missed(killed, straight, train):
    shutil.rmtree(newest(killed))
    train(killed)
    assert compare(straight, killed) == []


def test_if_none_is_whole_the_run_begins_again(killed, straight, train, caplog):
    checkpoints = Checkpoints(killed / "checkpoints")
    for step in checkpoints.steps():
        flip_a_bit(checkpoints.folder(step))
    train(killed)
    assert "resuming from the beginning" in caplog.text
    shutil.rmtree(killed / "damaged")
    assert compare(straight, killed) == []


def test_if_the_best_weights_are_damaged_it_goes_back_to_before_them(train, tmp_path, caplog):
    """Resuming from the last checkpoint would lose the best weights and change the result."""
    descending = {"lr": 3.0, "keep": 1}  # with such a rate, step 0 stays the best
    train(tmp_path / "straight", **descending)
    best = json.loads((tmp_path / "straight" / "result.json").read_text())["best_step"]
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(killed, images=16 * 10, **descending)
    assert best < Checkpoints(killed / "checkpoints").steps()[0], "or this tests nothing"
    flip_a_bit(killed / "checkpoints" / str(best))
    train(killed, **descending)
    assert "resuming from the beginning" in caplog.text
    shutil.rmtree(killed / "damaged")
    assert compare(tmp_path / "straight", killed) == []


def test_any_flipped_bit_is_noticed_or_harmless(straight, tmp_path):
    rng = np.random.default_rng(0)
    original = newest(straight)
    saved = Checkpoints(straight / "checkpoints").read(int(original.name))
    noticed = 0
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    for file in files:
        folder = shutil.copytree(original, tmp_path / "checkpoints" / original.name)
        content = bytearray((folder / file).read_bytes())
        if content:
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (folder / file).write_bytes(content)
        try:
            read = Checkpoints(tmp_path / "checkpoints").read(int(original.name))
        except DamagedCheckpoint:
            noticed += 1
        else:
            assert read.bookkeeping == saved.bookkeeping
            flat = jax.tree.leaves((read.variables, read.opt_state))
            for a, b in zip(flat, jax.tree.leaves((saved.variables, saved.opt_state)), strict=True):
                assert a.tobytes() == b.tobytes()
        shutil.rmtree(folder)
    assert noticed >= len(files) // 2


def test_the_best_weights_of_a_finished_run_are_not_replaced_by_others(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    best = json.loads((workdir / "result.json").read_text())["best_step"]
    flip_a_bit(workdir / "checkpoints" / str(best))
    with pytest.raises(InputError, match=rf"checkpoints/{best} is damaged .*restore it"):
        best_variables(workdir)


def test_rows_that_were_edited_are_refused(killed, train):
    path = killed / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 0', '"step": 1'))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"metrics.jsonl does not hold the rows"):
        train(killed)
    assert path.read_bytes() == before


def test_a_last_row_that_was_cut_off_is_written_again(killed, straight, train):
    path = killed / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"event": "train", "st')
    train(killed)
    assert compare(straight, killed) == []


# --- in use -----------------------------------------------------------------------------------


def test_a_workdir_in_use_is_refused_and_left_alone(killed, straight, train):
    held, done = threading.Event(), threading.Event()

    def hold():
        with locked(killed):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*")}
    try:
        with pytest.raises(InputError, match=rf"in use by another run \(process {os.getpid()} on"):
            train(killed)
        assert {path: path.stat().st_mtime_ns for path in killed.rglob("*")} == before
    finally:
        done.set()
        holder.join()
    train(killed)
    assert compare(straight, killed) == []


def test_only_what_tljax_wrote_is_removed_from_a_new_workdir(tmp_path):
    own = [tmp_path / name for name in (".notes.2024", ".keep.7", ".config.json.7", ".writable")]
    for path in own:
        path.write_text("mine\n")
    left = [temporary_path(tmp_path / name) for name in ("result.json", "metrics.jsonl")]
    for path in left:  # by a run that was killed
        path.touch()
    with locked(tmp_path):
        assert not any(path.exists() for path in left)
    assert [path.read_text() for path in own] == ["mine\n"] * len(own)


# --- changed ----------------------------------------------------------------------------------


def test_what_changes_no_number_may_change(killed, straight, train, caplog):
    train(killed, num_workers=1, keep=1, checkpoint_every=4)
    assert "num_workers was 0 and is 1, which changes no number" in caplog.text
    assert (killed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    results = [json.loads((w / "result.json").read_text()) for w in (straight, killed)]
    assert results[0] | {"wall_seconds": 0} == results[1] | {"wall_seconds": 0}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 8}, "batch_size was 16 and is 8"),
        ({"lr": 0.1}, "lr was 0.05 and is 0.1"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"steps": 13}, "steps was 12 and is 13"),
        ({"preprocessing": Preprocessing(24, (0.5,) * 3, (0.5,) * 3)}, "preprocessing.image_size"),
    ],
)
def test_what_changes_the_result_is_refused_by_name(options, named, killed, train):
    with pytest.raises(InputError, match=r"with another config .*use a new workdir") as refused:
        train(killed, **options)
    assert named in str(refused.value)


def test_another_data_set_is_refused_by_name(photo_folder, tiny_config, tmp_path):
    config = tiny_config(data=f"folder:{photo_folder}", train_size=None, steps=4, eval_every=2)
    first = experiment.run(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    copy = shutil.copytree(photo_folder, tmp_path / "copy")
    shutil.rmtree(photo_folder)
    shutil.move(copy, photo_folder)  # other files, same images
    again = experiment.run(config, tmp_path / "run")
    assert again.summary | {"wall_seconds": 0} == first.summary | {"wall_seconds": 0}
    (tmp_path / "run" / "result.json").unlink()
    for path in sorted(photo_folder.rglob("*.png")):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    with pytest.raises(InputError, match="train and val images are not those") as refused:
        experiment.run(config, tmp_path / "run")
    assert "restore them, or use a new workdir" in str(refused.value)


def pairs(wrong=()):
    """200 images of two classes, a Python list; the images with these numbers show the other."""
    shown = np.zeros((200, 16, 16, 3), np.uint8)
    labels = np.arange(200) % 2
    shown[(labels == 1) ^ np.isin(np.arange(200), list(wrong))] = 255
    return [(image, int(label)) for image, label in zip(shown, labels, strict=True)]


def test_one_other_image_of_200_is_another_data_set(tmp_path):
    """A data set that says nothing of its content, such as a list, is read in whole."""
    model = MODEL.clone(num_classes=2)
    plan = tljax.from_scratch(model.groups)
    options = {**OPTIONS, "steps": 1}
    tljax.fit(model, None, plan, pairs(), None, workdir=tmp_path, **options)
    with pytest.raises(InputError, match="train images are not those"):
        tljax.fit(model, None, plan, pairs(wrong=[1]), None, workdir=tmp_path, **options)


def test_other_settings_are_refused_unless_accepted(killed, straight, train, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")
    named = r"settings\.jax_default_matmul_precision was None and is highest"
    with jax.default_matmul_precision("highest"), pytest.raises(InputError, match=named):
        train(killed)
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_max_isa=SSE4_2")
    with pytest.raises(InputError, match=r"settings.XLA_FLAGS was .*SSE4_2.*--accept_changes"):
        train(killed)
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_dump_to=elsewhere")
    train(killed)
    assert compare(straight, killed) == []


def test_a_run_of_a_version_that_kept_no_settings_resumes_and_says_so(
    killed, straight, train, caplog, monkeypatch
):
    checkpoints = Checkpoints(killed / "checkpoints")
    for step in sorted(checkpoints.steps()):
        saved = checkpoints.read(step)
        del saved.bookkeeping.made_by["environment"]["settings"]
        shutil.rmtree(checkpoints.folder(step))
        checkpoints.save(saved, keep=9)
    checkpoints.close()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=SSE4_2")  # nobody can know what it was
    train(killed)
    assert "did not keep XLA_FLAGS and JAX's settings, so they are not compared" in caplog.text
    assert "changes" not in json.loads((killed / "result.json").read_text())


def test_other_code_and_devices_are_refused_unless_accepted(tiny_config, tmp_path):
    config = [
        *("--config", str(ROOT / "configs/from_scratch.py"), "--config.data=embedded:digits"),
        *(*SMALL, "--config.train_size=40", "--config.steps=4"),
        *("--config.eval_every=2", "--config.batch_size=16", "--workdir", str(tmp_path / "run")),
    ]
    shutil.copytree(ROOT / "tljax", tmp_path / "edited" / "tljax")
    with (tmp_path / "edited" / "tljax" / "errors.py").open("a") as code:
        code.write("# edited\n")

    def run(*argv, **variables):
        command = [sys.executable, "-m", "tljax.cli", "train", *config, *argv]
        environment = {**os.environ, **variables}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    first = run(PYTHONPATH=str(ROOT))
    assert first.returncode == 0, first.stderr
    (tmp_path / "run" / "result.json").unlink()
    changed = {
        "PYTHONPATH": str(tmp_path / "edited"),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    refused = run(**changed)
    assert refused.returncode == 2
    assert "code was" in refused.stderr
    assert "devices was ['cpu'] and is ['cpu', 'cpu']" in refused.stderr
    assert "--accept_changes" in refused.stderr
    accepted = run("--accept_changes", **changed)
    assert accepted.returncode == 0, accepted.stderr
    changes = json.loads((tmp_path / "run" / "result.json").read_text())["changes"]
    assert len(changes) == 2


# --- full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A small file system that can be enlarged; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size, remount="remount,"):
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if not resize("64k", remount=""):
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place, resize
    # lazily: the traceback of a failed write may hold its file open
    subprocess.run(["umount", "--lazy", str(place)], check=True)


MORE_SIZES = [pytest.param(size, marks=pytest.mark.soak) for size in ("16k", "320k", "640k")]


@pytest.mark.parametrize("size", ["4k", "64m,nr_inodes=30", *MORE_SIZES])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(size, small_disk, straight, train, capfd):
    """30 inodes refuse files in the middle of a background save, while steps continue."""
    place, resize = small_disk
    assert resize(size)
    with pytest.raises(InputError, match=r"o space left|the disk has .* left; make room"):
        train(place / "run")
    assert "Traceback" not in capfd.readouterr().err
    assert resize("64m,nr_inodes=10k")
    train(place / "run")
    assert compare(straight, place / "run") == []
