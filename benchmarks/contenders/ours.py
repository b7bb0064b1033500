"""tljax, called as a user calls it."""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tljax
from benchmarks import jobs
from benchmarks.jobs import Job, Network
from benchmarks.timing import median_seconds, seconds_per_batch, share_of_peak, time_call
from tljax import data
from tljax.analysis.cost import group_flops
from tljax.devices import micro_batches
from tljax.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tljax.training import train_state
from tljax.training.step import optimizer, predict_step, train_step


def make_plan(scenario: str, groups: Any, k: int) -> tljax.TransferPlan:
    """The transfer plan of a job's scenario."""
    if scenario == "freeze_first":
        return tljax.freeze_first(groups, k)
    if scenario == "fine_tune":
        return tljax.fine_tune(groups, backbone=jobs.BACKBONE_RATE)
    return {
        "feature_extraction": tljax.feature_extraction,
        "from_scratch": tljax.from_scratch,
    }[scenario](groups)


def job(job: Job, folder: Path, epochs: int, images: int | None = None) -> dict[str, Any]:
    """Times the training, including the cache of frozen features.

    `images`: how many to train on instead of the job's.
    """
    network = job.network
    train = jobs.make_images(network.pixels, images or job.images)
    model, variables, preprocessing = _load(network, folder)
    plan = make_plan(job.scenario, model.groups, network.k)
    seconds, result = time_call(lambda: _fit(model, variables, plan, train, preprocessing, epochs))
    losses = [row["loss"] for row in result.history if row["event"] == "train"]
    return {"seconds": seconds, "epochs": epochs, "loss": losses[-1]}


def head(folder: Path, width: int, rows: int, outputs: int, kind: str) -> dict[str, Any]:
    """Times a solved head, of which the penalty is chosen by cross-validation.

    `first_seconds` has compiling in it, without a compilation cache; `seconds` has not.
    """
    from tljax.frozen.linear_head import solve_head

    features, labels = jobs.make_features(width, rows, outputs, kind)
    jax.config.update("jax_enable_compilation_cache", False)
    jax.block_until_ready(jnp.zeros(1))  # JAX starts
    first, _ = time_call(lambda: solve_head(features, labels, outputs))
    began = time.process_time()
    seconds, solved = time_call(lambda: solve_head(features, labels, outputs))
    found = {"seconds": seconds, "first_seconds": first}
    found["processor_seconds"] = time.process_time() - began
    return found | {"l2": solved.l2, "loss": solved.report["loss"]}


def forward(network: Network, folder: Path, batch: int) -> dict[str, float]:
    """Seconds to classify a batch, and its FLOP/s as a fraction of a matrix product's."""
    model, variables, preprocessing = _load(network, folder)
    step = predict_step(model, preprocessing)
    inputs = {"image": jnp.asarray(jobs.make_images(network.pixels, batch)[0])}

    def run() -> None:
        jax.block_until_ready(step(variables, inputs))

    flops = batch * sum(group_flops(model, variables, network.pixels))
    return {"seconds": median_seconds(run), "share_of_peak": share_of_peak(run, flops)}


def step(network: Network, folder: Path, batch: int, scenario: str) -> dict[str, float]:
    """Seconds of one training step, from images."""
    run = make_step(network, folder, batch, scenario)
    return {"seconds": median_seconds(run)}


def half_step(network: Network, folder: Path) -> dict[str, float]:
    """Images a second of a bfloat16 step at the largest batch that fits, and its share of the peak.

    The peak is that of the fastest bfloat16 product of square matrices.
    """
    for batch in jobs.HALF_BATCHES:
        try:
            run = make_step(
                network, folder, batch, "from_scratch", accumulate=1, dtype=jnp.bfloat16
            )
            seconds = median_seconds(run)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        flops = 3 * batch * sum(group_flops(*_load(network, folder)[:2], network.pixels))
        share = share_of_peak(run, flops, dtype="bfloat16")
        return {"images_per_second": batch / seconds, "batch": batch, "share_of_peak": share}
    raise SystemExit(f"no batch of {network.name} fits")


def read(folder: Path, batch: int, num_workers: int) -> dict[str, float]:
    """Seconds to read, crop, resize and randomly mirror a batch of JPEG files."""
    photographs = data.load(f"folder:{jobs.make_photographs(folder)}").train
    preprocessing = data.Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, "bilinear")
    batches = data.train_batches(
        photographs,
        preprocessing,
        batch_size=batch,
        seed=0,
        augment="crop_flip",
        num_workers=num_workers,
    )
    with closing(batches):
        return {"seconds": seconds_per_batch(batches)}


def make_step(
    network: Network,
    folder: Path,
    batch: int,
    scenario: str,
    accumulate: int | None = None,
    dtype: Any = jnp.float32,
) -> Any:
    """Returns a function that takes one step of tljax's training and waits for it.

    The function's attribute `compiled` is the program.
    """
    model, variables, preprocessing = _load(network, folder)
    model = model.clone(dtype=dtype)
    plan = make_plan(scenario, model.groups, network.k)
    tx = optimizer(plan, "sgd", ".*kernel", jobs.MOMENTUM, None)
    state, frozen = train_state.create(plan, variables, tx)
    accumulate = accumulate or micro_batches.choose_training_parts(
        model, plan, network.pixels, batch, 0
    )
    compiled = train_step(model, plan, preprocessing, tx, 0, accumulate)
    images, labels = jobs.make_images(network.pixels, batch)
    rest = (
        frozen,
        {"image": jnp.asarray(images), "label": jnp.asarray(labels)},
        jax.random.key(0),
        np.float32(jobs.LEARNING_RATE),
        np.float32(0.0),
    )
    program = compiled.lower(state, *rest).compile()

    def run() -> None:
        nonlocal state
        state, metrics = program(state, *rest)
        jax.block_until_ready((state, metrics))

    run.compiled = program  # type: ignore[attr-defined]
    return run


def growth(
    network: Network, folder: Path, pixels: int, images: int, epochs: int, k: int
) -> dict[str, float]:
    """Seconds of a training that freezes the first k groups, and what the law needs.

    `forwards` is the cost in forward passes of the whole network by the law: each image once
    through the frozen share phi, and 3 (1 - phi) an image in each step.
    """
    network = replace(network, pixels=pixels)
    model, variables, preprocessing = _load(network, folder)
    plan = tljax.freeze_first(model.groups, k)

    def fit(count: int, epochs: int) -> None:
        train = jobs.make_images(pixels, count)
        _fit(model, variables, plan, train, preprocessing, epochs)

    fit(jobs.BATCH, 1)  # compiles
    seconds, _ = time_call(lambda: fit(images, epochs))
    counts = group_flops(model, variables, pixels)
    phi = sum(counts[:k]) / sum(counts)
    step = predict_step(model, preprocessing)
    inputs = {"image": jnp.asarray(jobs.make_images(pixels, jobs.BATCH)[0])}
    forward_seconds = median_seconds(lambda: jax.block_until_ready(step(variables, inputs)), 3.0)
    return {
        "seconds": seconds,
        "forwards": images * (phi + 3 * (1 - phi) * epochs),
        "forward_seconds": forward_seconds / jobs.BATCH,
    }


def start(folder: Path, scenario: str) -> dict[str, float]:
    """Seconds from `tljax train` to the end of its first step: DINOv2-small at 224 pixels."""
    network = jobs.NETWORKS["vit_small"]
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "tljax.cli", "train", "--workdir", workdir]
        command += [
            f"--config=configs/{scenario}.py",
            "--config.data=embedded:digits",
            "--config.hyperrule=None",  # what it chooses is not measured, nor a head it solves
            "--config.augment=" + ("crop" if scenario == "fine_tune" else "none"),
            f"--config.model={network.name}",
            f"--config.init_from={jobs.make_weights(network, folder)}",
            f"--config.image_size={network.pixels}",
            "--config.train_size=20",
            "--config.val_fraction=0.01",
            "--config.batch_size=8",
            "--config.steps=1",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            output = ""
            for line in process.stderr:
                output += line
                if match := re.search(r"done ([\d.]+) s after the command", line):
                    process.kill()  # its evaluation on test images is not measured
                    return {"seconds": float(match[1])}
    raise RuntimeError(f"`tljax train` took no step: {output}")


def compare_with_minimal(network: Network, folder: Path, pairs: int = 20) -> dict[str, float]:
    """Ratios of tljax's step to a minimal one in plain JAX: FLOPs, bytes, and seconds in turn.

    They are measured for 4 images and for the job's batch. XLA counts FLOPs and bytes of a batch in
    one part, since it counts a loop's body once. The time of the job's batch is that of as many
    parts as tljax chooses.
    """
    from benchmarks.contenders import minimal_jax

    model, *_ = _load(network, folder)
    plan = tljax.from_scratch(model.groups)
    parts = micro_batches.choose_training_parts(model, plan, network.pixels, jobs.BATCH)
    found: dict[str, float] = {}

    def both(batch: int, parts: int) -> tuple[Any, Any]:
        one = make_step(network, folder, batch, "from_scratch", parts)
        return one, minimal_jax.make_step(network, folder, batch, parts)

    for batch, n in ((4, 1), (jobs.BATCH, parts)):
        whole = both(batch, 1)
        costs = [step.compiled.cost_analysis() for step in whole]
        for name in ("flops", "bytes accessed"):
            found[f"{name}, batch {batch}"] = costs[0][name] / costs[1][name]
        one, other = whole if n == 1 else both(batch, n)
        for step in (one, other):
            step()
        ratios = [time_call(one)[0] / time_call(other)[0] for _ in range(pairs)]
        found[f"seconds, batch {batch}"] = statistics.median(ratios)
    return found


def warm_epoch(network: Network, folder: Path, images: int) -> dict[str, float]:
    """Seconds of an epoch of S1 with features on disk: 21 epochs less one, over twenty."""
    model, variables, preprocessing = _load(network, folder)
    train = jobs.make_images(network.pixels, images)

    plan = tljax.feature_extraction(model.groups)

    def fit(epochs: int) -> None:
        _fit(model, variables, plan, train, preprocessing, epochs, cache="disk")

    fit(1)  # fills the cache
    few, many = (time_call(lambda n=n: fit(n))[0] for n in (1, 21))
    return {"seconds": (many - few) / 20}


def _fit(
    model: Any,
    variables: Any,
    plan: tljax.TransferPlan,
    train: Any,
    preprocessing: Any,
    epochs: int,
    cache: str = "memory",
) -> tljax.Result:
    """A job's training, called as a user would call it."""
    keeps = plan.frozen_prefix(variables["params"]) > 0
    return tljax.fit(
        model,
        variables,
        plan,
        train,
        None,
        preprocessing=preprocessing,
        batch_size=jobs.BATCH,
        epochs=epochs,
        lr=jobs.LEARNING_RATE,
        momentum=jobs.MOMENTUM,
        schedule="constant",
        log_every=len(train[1]) // jobs.BATCH,
        cache=cache if keeps else "off",
        progress=False,
    )


def _load(network: Network, folder: Path) -> tuple[Any, Any, Any]:
    return tljax.load(
        network.name,
        init_from=jobs.make_weights(network, folder),
        num_classes=jobs.CLASSES,
        image_size=network.pixels,
    )
