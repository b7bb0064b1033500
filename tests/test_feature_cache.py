"""The cache of frozen groups' outputs: the same numbers as without it, and never stale."""

import dataclasses
import json
import os
import subprocess
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import tljax
from tests.soak.campaign import compare
from tests.test_plan_laws import NETWORKS
from tests.test_stored_rows import cut_the_rows, zero_4_kb
from tests.watched import Watched
from tljax import data as data_lib
from tljax.data import Preprocessing, fixed_views
from tljax.errors import InputError
from tljax.frozen import cache as feature_cache
from tljax.models import init
from tljax.runs.checkpoints import Checkpoints
from tljax.training.evaluation import evaluate
from tljax.training.step import loss_and_gradient

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
OPTIONS = {
    "preprocessing": PREPROCESSING,
    "batch_size": 16,
    "steps": 10,
    "eval_every": 2,
    "log_every": 2,
    "lr": 0.05,
    "progress": False,
}


@pytest.fixture(scope="module")
def digits():
    whole = data_lib.load("embedded:digits", train_size=50)
    return dataclasses.replace(whole, val=data_lib.Subset(whole.val, range(64)))


@pytest.fixture(scope="module", params=NETWORKS)
def start(request):
    model = NETWORKS[request.param].clone(drop_path=0.0)
    return model, init(model, jax.random.key(0), 16)


# For what does not depend on the network; a soak tests the other one.
one_network = pytest.mark.parametrize(
    "start", ["resnet", pytest.param("vit", marks=pytest.mark.soak)], indirect=True
)


def cached(start, source, folder=None, k=2, preprocessing=PREPROCESSING):
    model, variables = start
    return feature_cache.cached(model, variables, preprocessing, k, source, folder)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_step_with_the_cache_is_the_step_without(start, digits, tmp_path):
    """At 5 saved states of a run: loss and gradients agree to 1e-5 relative."""
    model, variables = start
    plan = tljax.freeze_first(model.groups, 2)
    tljax.fit(
        model,
        variables,
        plan,
        digits.train,
        digits.val,
        workdir=tmp_path,
        **OPTIONS,
        keep=10,
        cache="off",
    )
    features = cached(start, digits.train)
    images = data_lib.train_batches(digits.train, PREPROCESSING, batch_size=16, seed=0)
    others = features.shuffled(16, 0)
    without = jax.jit(loss_and_gradient(model, plan, PREPROCESSING))
    with_cache = jax.jit(loss_and_gradient(model, plan, PREPROCESSING, 2))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    steps = checkpoints.steps()[:5]
    assert len(steps) == 5
    for step in steps:
        saved = checkpoints.read(step).variables
        trained, frozen = plan.partition(saved["params"])
        statistics, stored = plan.partition_statistics(
            saved.get("batch_stats", {}), saved["params"]
        )
        arguments = (trained, statistics, {"params": frozen, "batch_stats": stored})
        batch, other = next(images), next(others)
        np.testing.assert_array_equal(batch["label"], other["label"])
        metrics, gradient, _ = without(*arguments, batch, jax.random.key(0))
        again, same_gradient, _ = with_cache(*arguments, other, jax.random.key(0))
        assert float(again["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(same_gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)
    images.close()
    others.close()


@pytest.mark.parametrize("count", [1, 16, 33])
def test_evaluation_from_the_cache_is_evaluation(start, digits, count):
    model, variables = start
    source = data_lib.Subset(digits.test, range(count))
    straight = evaluate(model, variables, source, PREPROCESSING, 16)
    again = evaluate(model, variables, cached(start, source), PREPROCESSING, 16)
    assert again.class_counts == straight.class_counts
    assert again.accuracy == straight.accuracy
    assert again.loss == pytest.approx(straight.loss, rel=1e-5)


@one_network
def test_runs_share_what_was_computed(start, digits, tmp_path):
    """With other seeds, sizes and splits of a data set, each image is computed once."""
    whole = Watched(digits.test)
    first = cached(start, data_lib.Subset(whole, [1, 3, 5]), tmp_path)
    second = cached(start, data_lib.Subset(data_lib.Subset(whole, [5, 1, 7]), [0, 2]), tmp_path)
    assert whole.reads == {1: 1, 3: 1, 5: 1, 7: 1}
    assert len(entries(tmp_path)) == 1
    np.testing.assert_array_equal(second[0]["features"], first[2]["features"])
    for index, image in enumerate((5, 7)):
        alone = cached(start, data_lib.Subset(digits.test, [image]))
        scale = np.abs(alone[0]["features"]).max()
        np.testing.assert_allclose(
            second[index]["features"], alone[0]["features"], atol=1e-5 * scale
        )


def test_whatever_decides_the_numbers_decides_the_entry(start, digits, tmp_path, monkeypatch):
    model, variables = start
    source = data_lib.Subset(digits.test, range(3))
    cached(start, source, tmp_path)
    cached(start, data_lib.Subset(digits.test, range(2)), tmp_path)
    assert len(entries(tmp_path)) == 1
    cached((model.clone(num_classes=7), variables), source, tmp_path)
    assert len(entries(tmp_path)) == 1, "the entry does not depend on the head"
    cached(start, source, tmp_path, k=1)
    cached(start, source, tmp_path, preprocessing=Preprocessing(16, (0.4,) * 3, (0.5,) * 3))
    cached(start, data_lib.Subset(digits.train.source, range(3)), tmp_path)
    changed = jax.tree.map(lambda leaf: leaf, variables)
    first = model.groups.names[0]
    changed["params"][first] = jax.tree.map(lambda leaf: leaf + 1e-3, changed["params"][first])
    cached((model, changed), source, tmp_path)
    assert len(entries(tmp_path)) == 5
    with jax.default_matmul_precision("highest"):
        cached(start, source, tmp_path)
    assert len(entries(tmp_path)) == 6
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=SSE4_2")
    cached(start, source, tmp_path)
    assert len(entries(tmp_path)) == 7
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=SSE4_2 --xla_dump_to=elsewhere")
    cached(start, source, tmp_path)
    assert len(entries(tmp_path)) == 7


def assert_as_without(start, features, source):
    """The features are those that a run without anything on the disk computes."""
    fresh = cached(start, source)
    scale = np.abs(fresh.features).max()
    np.testing.assert_allclose(features.features[features.rows], fresh.features, atol=1e-5 * scale)


@one_network
def test_images_that_were_corrected_are_computed_again(start, tmp_path):
    """136 of 200 images were wrong; a list says nothing about its content but the images."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 256, (200, 32, 32, 3), np.uint8)
    wrong = right[::-1].copy()
    spread = np.unique(np.linspace(0, 199, 64).astype(int))
    wrong[spread] = right[spread]
    assert (wrong != right).any((1, 2, 3)).sum() == 136
    for images in (wrong, right):
        source = data_lib.as_source([(image, i % 2) for i, image in enumerate(images)])
        features = cached(start, source, tmp_path)
    assert_as_without(start, features, source)


@one_network
def test_an_image_file_that_was_replaced_is_computed_again(start, tmp_path):
    """In a folder of more than 256 MiB, by a file of the same size."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"

    def write(number):
        path = folder / "ab"[number // 4] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        os.truncate(path, 40 * 2**20)  # sparse, and no part of the image

    for number in range(8):
        write(number)
    cached(start, data_lib.load(f"folder:{folder}").train, tmp_path / "cache")
    for number in range(1, 8, 2):
        write(number)
    train = data_lib.load(f"folder:{folder}").train
    assert_as_without(start, cached(start, train, tmp_path / "cache"), train)


@one_network
@pytest.mark.parametrize("damage", [cut_the_rows, zero_4_kb])
def test_damaged_rows_are_computed_again_and_counted(damage, start, digits, tmp_path, caplog):
    source = Watched(data_lib.Subset(digits.test, range(40)))
    expected = np.array(cached(start, source, tmp_path).features)
    source.reads.clear()
    lost = list(damage(tmp_path / entries(tmp_path)[0], expected[0].nbytes))
    again = cached(start, source, tmp_path)
    assert sorted(source.reads) == lost
    assert f"{len(lost)} of 40 rows" in caplog.text
    np.testing.assert_allclose(again.features, expected, atol=1e-5 * np.abs(expected).max())


@one_network
def test_auto_uses_memory_where_nothing_can_be_written(
    start, digits, tmp_path, monkeypatch, caplog
):
    model, variables = start
    plan = tljax.feature_extraction(model.groups)
    sources = (digits.train, digits.val)
    on_disk = tljax.fit(model, variables, plan, *sources, workdir=tmp_path / "disk", **OPTIONS)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    disk = {**OPTIONS, "cache": "disk"}
    with pytest.raises(InputError, match=r"cannot write to .*file/tljax/features .*cache to auto"):
        tljax.fit(model, variables, plan, *sources, workdir=tmp_path / "refused", **disk)
    result = tljax.fit(model, variables, plan, *sources, workdir=tmp_path / "memory", **OPTIONS)
    assert caplog.text.count("so features are cached in memory, for this run alone") == 1
    assert result.history == on_disk.history


@one_network
def test_what_a_killed_process_computed_is_kept(start, digits, tmp_path):
    dying = Watched(digits.test, fail_on=70)  # in the third batch
    with pytest.raises(KeyboardInterrupt):
        cached(start, data_lib.Subset(dying, range(200)), tmp_path)
    going_on = Watched(digits.test)
    features = cached(start, data_lib.Subset(going_on, range(200)), tmp_path)
    assert len(going_on.reads) < 200
    again = cached(start, data_lib.Subset(digits.test, range(200)))
    scale = np.abs(again.features).max()
    for index in range(200):
        np.testing.assert_allclose(
            features[index]["features"], again[index]["features"], atol=1e-5 * scale
        )


@one_network
def test_two_at_once_compute_it_once(start, digits, tmp_path):
    whole = Watched(digits.test)
    source = data_lib.Subset(whole, range(40))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cached(start, source, tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(whole.reads.values()) == {1}
    np.testing.assert_array_equal(found[0].features[:40], found[1].features[:40])


@one_network
def test_resumed_equals_uninterrupted(start, digits, tmp_path):
    model, variables = start
    plan = tljax.feature_extraction(model.groups)

    def train(name, **options):
        return tljax.fit(
            model,
            variables,
            plan,
            digits.train,
            digits.val,
            digits.test,
            workdir=tmp_path / name,
            **OPTIONS | options,
        )

    train("straight")
    train("killed")
    killed = tmp_path / "killed"
    (killed / "result.json").unlink()
    checkpoints = Checkpoints(killed / "checkpoints")
    for step in checkpoints.steps()[:1]:  # as if killed before the save
        checkpoints.move_to_damaged(step)
    (killed / "damaged").rename(tmp_path / "damaged")
    train("killed")
    assert compare(tmp_path / "straight", killed) == []
    (killed / "result.json").unlink()
    with pytest.raises(InputError, match="cache was"):
        train("killed", cache="off")


@one_network
def test_the_images_are_read_once(start, digits):
    model, variables = start
    train, val = Watched(digits.train), Watched(digits.val)
    plan = tljax.freeze_first(model.groups, 2)
    tljax.fit(model, variables, plan, train, val, **OPTIONS)
    assert set(train.reads.values()) == set(val.reads.values()) == {1}
    train = Watched(digits.train)
    tljax.fit(model, variables, plan, train, val, **OPTIONS, augment="crop")
    assert max(train.reads.values()) > 1


def test_each_view_is_computed_once_and_shown_in_turn(start, digits, tmp_path):
    """With three views of 50 images, features are those of the images without a cache."""
    model, variables = start
    shown = fixed_views(digits.train, PREPROCESSING, "crop", (0.3, 1.0), 3)
    count = len(digits.train)
    images = data_lib.train_batches(shown, PREPROCESSING, batch_size=16, seed=0, views=3)
    features = cached(start, shown).shuffled(16, 0, views=3)
    prefix = jax.jit(lambda x: model.apply(variables, x, train=False, stop=2))
    seen = []
    for _ in range(3 * count // 16):
        batch, other = next(images), next(features)
        np.testing.assert_array_equal(batch["label"], other["label"])
        expected = np.asarray(prefix(data_lib.normalise(batch["image"], PREPROCESSING)))
        np.testing.assert_allclose(other["features"], expected, atol=1e-5 * np.abs(expected).max())
        seen.extend(image.tobytes() for image in batch["image"])
    assert len(set(seen[:count])) == len(seen[:count])
    assert len(set(seen)) == len(seen), "each epoch has new views"
    images.close()
    features.close()


def test_views_are_the_same_for_every_part_and_seed(digits):
    whole = digits.test
    part = data_lib.Subset(whole, [7, 3])
    of_whole, of_part = (
        fixed_views(s, PREPROCESSING, "crop_flip", (0.3, 1.0), 2) for s in (whole, part)
    )
    for view in range(2):
        for row, image in enumerate((7, 3)):
            np.testing.assert_array_equal(
                of_part[view * 2 + row]["image"], of_whole[view * len(whole) + image]["image"]
            )
    assert (of_part[0]["image"] != of_part[2]["image"]).any()


@one_network
def test_with_views_images_are_read_once_a_view(start, digits, tmp_path):
    """A run without the cache sees the same views, so that losses are the same."""
    model, variables = start
    plan = tljax.feature_extraction(model.groups)
    rows = {}
    for cache in ("memory", "off"):
        train = Watched(digits.train)
        options = {**OPTIONS, "augment": "crop_flip", "views": 2, "cache": cache}
        result = tljax.fit(model, variables, plan, train, digits.val, **options)
        if cache == "memory":
            assert set(train.reads.values()) == {2}
        rows[cache] = [row["loss"] for row in result.history]
    np.testing.assert_allclose(rows["memory"], rows["off"], rtol=1e-3)


@one_network
def test_what_cannot_be_kept_is_said(start, digits):
    model, variables = start
    frozen, moving = tljax.feature_extraction(model.groups), tljax.from_scratch(model.groups)
    options = {**OPTIONS, "cache": "memory"}
    with pytest.raises(InputError, match="augmented anew in every epoch, so nothing can be cached"):
        tljax.fit(model, variables, frozen, digits.train, None, **options, augment="crop")
    with pytest.raises(InputError, match="the first group trains, so nothing can be cached"):
        tljax.fit(model, None, moving, digits.train, None, **options)


@one_network
def test_a_full_disk_stops_it_and_room_lets_it_go_on(start, digits, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        with pytest.raises(InputError, match=r"cannot cache features .*make room"):
            cached(start, digits.test, place)
        subprocess.run([*mount[:4], "remount,size=64m", *mount[5:]], check=True)
        features = cached(start, digits.test, place)
        whole = cached(start, digits.test)
        scale = np.abs(whole.features).max()
        np.testing.assert_allclose(features.features, whole.features, atol=1e-5 * scale)
        assert json.loads((place / entries(place)[0] / "key.json").read_text())["groups"] == 2
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
