"""Many devices and many processes compute the same as one device.

Steps agree up to the order of sums, and evaluations are bit-identical. A job of several processes
ends correctly after a kill, a preemption, or a resume with another number of processes.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.many_devices import CASES, MESHES, MIXED_CASE
from tests.soak.campaign import ROOT, compare
from tljax import config as config_lib
from tljax import experiment
from tljax.devices import sharding
from tljax.errors import InputError
from tljax.frozen import cache as feature_cache
from tljax.runs.checkpoints import Checkpoints
from tljax.runs.metrics import read_rows
from tljax.training.evaluation import evaluate

RUN = [
    *("--config.data=embedded:digits", "--config.model=vit_micro_patch4_32"),
    *("--config.last_group=block0", "--config.image_size=16"),
    *("--config.train_size=40", "--config.steps=8", "--config.batch_size=16"),
    *("--config.eval_every=4", "--config.checkpoint_every=2", "--config.log_every=1"),
    "--config.accept_source=True",  # a step does not beat the naive baseline
    *("--config.head_init=random", "--config.augment=none"),  # features are cached
]
PAGE = str(ROOT / "configs/freeze_first.py")


def environment(devices=1):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags}


# --- eight devices of one process -----------------------------------------------------------------


def on_eight(*arguments):
    command = [sys.executable, "-m", "tests.many_devices", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(8), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def eight():
    return on_eight()


def assert_as_on_one_device(found, case, meshes):
    differences = found["steps"][case]["differences"]
    assert differences.keys() == set(meshes)
    for difference in differences.values():
        assert difference["loss"] <= 1e-5
        assert difference["gradient"] <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_a_steps_loss_and_gradient_are_those_of_one_device(case, eight):
    assert_as_on_one_device(eight, case, MESHES[-1:] if case == MIXED_CASE else MESHES)


@pytest.mark.soak
def test_those_of_mixed_images_are_so_on_every_mesh():
    assert_as_on_one_device(on_eight(*MESHES), MIXED_CASE, MESHES)


@pytest.mark.parametrize("case", CASES)
def test_the_optimizer_holds_nothing_for_a_frozen_parameter_on_any_device(case, eight):
    assert eight["steps"][case]["slots"] == eight["steps"][case]["slots_wanted"]


@pytest.mark.parametrize("case", CASES)
def test_memory_falls_with_fsdp_as_computed_and_stays_so(case, eight):
    found = eight["steps"][case]["bytes"]
    assert found["before"] == found["after"] == [found["computed"]] * 8
    assert found["computed"] < 0.7 * found["whole"]
    assert eight["steps"][case]["stays"]


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_an_evaluation_is_that_of_one_device_to_the_last_bit(network, eight):
    found = eight["evaluations"][network]
    assert len(found) == 1 + len(MESHES)
    assert all(evaluation == found["one"] for evaluation in found.values())


def test_one_device_is_given_arrays_once_and_not_with_every_step():
    given = {"frozen": np.ones(3, np.float32), "trained": jax.numpy.ones(3)}
    placed = sharding.place(None, given)
    assert isinstance(placed["frozen"], jax.Array)
    assert placed["trained"].unsafe_buffer_pointer() == given["trained"].unsafe_buffer_pointer()


def test_what_is_cut_is_the_largest_axis_that_can_be():
    mesh = jax.sharding.AbstractMesh((2, 4), sharding.AXES)
    shapes = {"kernel": (6, 1024), "odd": (4098, 3), "tall": (4096, 1024), "bias": (1024,)}
    tree = {n: jax.ShapeDtypeStruct(shape, np.float32) for n, shape in shapes.items()}
    specs = {n: tuple(s.spec) for n, s in sharding.parameter_shardings(mesh, tree).items()}
    assert specs == {"kernel": (None, "fsdp"), "odd": (), "tall": ("fsdp",), "bias": ()}


@pytest.mark.parametrize(
    ("text", "devices", "sizes"),
    [
        ("data:-1", 8, (8, 1)),
        ("data:4,fsdp:2", 8, (4, 2)),
        ("fsdp:-1,data:2", 8, (2, 4)),
        ("fsdp:8", 8, (1, 8)),
        ("data:4", 8, None),
        ("data:3,fsdp:-1", 8, None),
    ],
)
def test_the_axes_sizes_multiply_to_the_number_of_devices(text, devices, sizes):
    if sizes is None:
        with pytest.raises(InputError, match="number of devices, 8"):
            sharding.axis_sizes(text, devices)
    else:
        assert tuple(sharding.axis_sizes(text, devices).values()) == sizes


@pytest.mark.parametrize(("batch", "parts", "multiple"), [(12, None, 8), (24, 2, 16)])
def test_a_batch_that_devices_cannot_share_is_refused(batch, parts, multiple):
    mesh = jax.sharding.AbstractMesh((8, 1), sharding.AXES)
    with pytest.raises(InputError, match=f"batch_size is {batch}, .* a multiple of {multiple}"):
        sharding.check_batch(mesh, batch, parts)


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of all runs here, including weights to start from."""
    source = tmp_path_factory.mktemp("source") / "run"
    page = str(ROOT / "configs/from_scratch.py")
    experiment.run(config_lib.load(page, [*RUN, "--config.steps=1"]), source)
    return [*RUN, "--config.k=1", f"--config.init_from={source}"]


@pytest.fixture(scope="module")
def launch(settings):
    return functools.partial(launch_with, settings)


def launch_with(settings, count, workdir, *more, strike=None):
    """Runs a job of `count` processes; `strike`: (process, signal, phase, occurrence).

    Returns:
      (exit code, stderr) of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for number in range(count):
        program = ["tljax.cli"]
        if strike and strike[0] == number:
            _, name, phase, occurrence = strike
            log = str(workdir.with_suffix(".phases"))
            program = ["tests.soak.victim", phase, str(occurrence), "0", name, log, "--"]
        together = [
            "--workdir",
            str(workdir),
            "--coordinator_address",
            address,
            "--num_processes",
            str(count),
        ]
        command = [sys.executable, "-m", *program, "train", "--config", PAGE, *settings]
        processes.append(
            subprocess.Popen(
                [*command, *together, "--process_id", str(number), *more],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [process.communicate(timeout=600)[1] for process in processes]
    return [(p.returncode, e) for p, e in zip(processes, errors, strict=True)]


def end_with(codes, ends):
    said = "\n".join(f"process {n} ended with {code}: {e}" for n, (code, e) in enumerate(ends))
    assert [code for code, _ in ends] == codes, said


def succeed(ends):
    end_with([0] * len(ends), ends)


@pytest.fixture(scope="module")
def straight(launch, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "straight"
    succeed(launch(2, workdir))
    return workdir


@pytest.fixture(scope="module")
def killed(launch, tmp_path_factory):
    """(workdir, outcomes) of a job of two processes; the second was killed in a step."""
    workdir = tmp_path_factory.mktemp("two") / "killed"
    return workdir, launch(2, workdir, strike=(1, "SIGKILL", "step", 6))


@pytest.fixture(scope="module")
def preempted(launch, killed):
    """The same job, resumed and then preempted; tests resume a copy of its workdir."""
    workdir, _ = killed
    return workdir, launch(2, workdir, strike=(1, "SIGTERM", "step", 2))


def row(workdir, event, step):
    return next(
        r for r in read_rows(workdir / "metrics.jsonl") if (r["event"], r["step"]) == (event, step)
    )


def assert_tested_as_by_one_device(workdir):
    """One device runs the same two programs: the cached frozen group, and the other groups."""
    result = json.loads((workdir / "result.json").read_text())
    trained = experiment.read_workdir(workdir)
    model, preprocessing = trained.experiment.model, trained.experiment.preprocessing
    test = experiment.load_data(trained.config).test
    kept = feature_cache.cached(model, trained.variables, preprocessing, 1, test, None)
    evaluation = evaluate(model, trained.variables, kept, preprocessing, trained.config.batch_size)
    assert (evaluation.accuracy, evaluation.loss) == (result["test_accuracy"], result["test_loss"])
    return result


def test_two_processes_do_what_one_does(settings, straight):
    config = config_lib.load(PAGE, [*settings, "--config.steps=1"])
    alone = experiment.fit_config(config)
    first = row(straight, "train", 1)
    assert first["loss"] == pytest.approx(alone.history[1]["loss"], rel=1e-5)
    assert first["grad_norm"] == pytest.approx(alone.history[1]["grad_norm"], rel=1e-5)
    assert row(straight, "val", 0) == alone.history[0]
    result = assert_tested_as_by_one_device(straight)
    assert result["mesh"] == {"data": 2, "fsdp": 1}
    assert result["processes"] == 2


def test_a_killed_process_ends_the_job(killed):
    (code, error), (victims, _) = killed[1]
    assert victims == -9
    assert code != 0
    assert "another process of this job has ended" in error or "another task died" in error


def test_sigterm_to_one_makes_all_save_the_same_step_and_leave(preempted):
    workdir, ends = preempted
    end_with([75, 75], ends)
    assert all("the same command resumes from what was saved" in error for _, error in ends)
    assert Checkpoints(workdir / "checkpoints").steps()[0] < 8


def test_killed_and_preempted_it_ends_with_the_same_bits(launch, preempted, straight, tmp_path):
    workdir = shutil.copytree(preempted[0], tmp_path / "copy")
    succeed(launch(2, workdir))
    assert compare(straight, workdir) == []


@pytest.mark.soak
def test_more_processes_and_another_mesh_go_on_if_that_is_accepted(launch, preempted, tmp_path):
    four = shutil.copytree(preempted[0], tmp_path / "four")
    succeed(launch(4, four, "--accept_changes", "--config.mesh=data:2,fsdp:2"))
    result = assert_tested_as_by_one_device(four)
    assert result["mesh"] == {"data": 2, "fsdp": 2}
    assert len(result["changes"]) == 3  # devices, mesh, processes


def test_one_process_goes_on_for_two_if_that_is_accepted(settings, preempted, straight, tmp_path):
    one = shutil.copytree(preempted[0], tmp_path / "one")
    config = config_lib.load(PAGE, settings)
    with pytest.raises(InputError, match="processes was 2 and is 1"):
        experiment.run(config, one)
    experiment.run(config, one, accept_changes=True)
    step = Checkpoints(preempted[0] / "checkpoints").steps()[0] + 1
    for name in ("loss", "grad_norm"):
        a, b = row(straight, "train", step)[name], row(one, "train", step)[name]
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.soak
def test_all_processes_restart_alike_after_a_loss_that_is_not_finite(launch, tmp_path):
    """Rate times decay is 5: kernels grow fourfold a step, and shrink at a third of the rate."""
    diverging = ["--config.lr=0.03", "--config.weight_decay=166", "--config.decayed=block.*kernel"]
    diverging += ["--config.momentum=0.0", "--config.schedule=constant", "--config.steps=40"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    ends = launch(2, straight, *diverging)
    succeed(ends)
    assert "restarts from its beginning" in ends[0][1]
    assert "restarts" not in ends[1][1], "said once"
    assert json.loads((straight / "result.json").read_text())["restarted"]["from_step"] == 0
    launch(2, killed, *diverging, strike=(0, "SIGKILL", "restart", 1))
    assert not (killed / "result.json").exists()
    succeed(launch(2, killed, *diverging))
    assert compare(straight, killed) == []
