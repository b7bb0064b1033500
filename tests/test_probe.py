"""Linear probes: a grid of heads, each trained as if alone, and heads that are solved."""

import csv
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import tljax
from tests.reference_weights import draw_file
from tests.test_cli import run
from tljax import data as data_lib
from tljax import experiment
from tljax.commands.probe import heads as probe_heads
from tljax.commands.probe import linear_probe
from tljax.commands.probe.features import compute_features
from tljax.commands.probe.solved import SolvedChoice, choose_features, solve_choices
from tljax.errors import InputError
from tljax.frozen.linear_head import SolvedHead, solve_head
from tljax.models import init, probing
from tljax.models.probing import OWN, PATCHES, Features
from tljax.transfer import feature_extraction

VIT, RESNET = "vit_micro_patch4_32", "resnet10_32"
CONFIGS = Path(__file__).parents[1] / "configs"
STEPS, BATCH = 12, 16


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {name: draw_file(folder / f"{name}.safetensors", name) for name in (VIT, RESNET)}


# --- features of heads --------------------------------------------------------------------------


def test_a_vits_parts_are_class_tokens_after_the_norm_and_the_mean_of_the_patches():
    model = tljax.create(VIT, 10, remat=True)
    variables = init(model, jax.random.key(0), 32)
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    parts = probing.all_parts(model, variables, images)
    assert parts.shape == (3, 5, 64)
    for back in (0, 3):
        shorter = model.truncated(4 - back)
        wanted = tljax.features(shorter, variables, images)
        np.testing.assert_allclose(parts[:, back], wanted, atol=1e-5)
    tokens = tljax.features(model.clone(pooling="none"), variables, images)
    np.testing.assert_allclose(parts[:, 4], tokens[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(OWN.select(parts), parts[:, 0])
    both = Features(4, average_pool=True).select(parts)
    np.testing.assert_array_equal(both, np.asarray(parts).reshape(3, -1))
    assert Features(1, average_pool=True).select(np.asarray(parts)).shape == (3, 128)
    np.testing.assert_array_equal(PATCHES.select(parts), parts[:, 4])


def test_choices():
    vit, resnet = tljax.create(VIT, 10), tljax.create(RESNET, 10)
    assert {(f.blocks, f.average_pool) for f in probing.choices(vit)} == {
        (1, False),
        (1, True),
        (4, False),
        (4, True),
    }
    assert probing.choices(resnet) == probing.choices(vit.clone(pooling="mean")) == (OWN,)
    assert probing.choices(vit, patches_alone=True) == (*probing.choices(vit), PATCHES)
    assert probing.choices(resnet, patches_alone=True) == (OWN,)
    assert len(probe_heads.list_settings(vit, 64, (0.0,))) == 52
    assert len(probe_heads.list_settings(resnet, 64, (0.0, 1e-3))) == 26
    rates = {setting.lr for setting in probe_heads.list_settings(vit, 512, (0.0,))}
    assert rates == {2 * rate for rate in probe_heads.RATES}


# --- the grid -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached():
    """(model, its features of 30 digits)."""
    model = tljax.create(VIT, 10)
    variables = init(model, jax.random.key(0), 32)
    digits = data_lib.load("embedded:digits", train_size=30)
    preprocessing = tljax.models.registry.spec(VIT).preprocessing
    return model, compute_features(model, variables, preprocessing, digits.train, "training")


def alone(model, setting, train):
    """Trains one head in a plain loop with optax's SGD."""
    schedule = optax.cosine_decay_schedule(setting.lr, STEPS)
    tx = optax.chain(
        optax.add_decayed_weights(setting.weight_decay, {"kernel": True, "bias": False}),
        optax.sgd(schedule, momentum=0.9),
    )
    width = setting.features.select(train.features[:1]).shape[1]
    head = {"kernel": jnp.zeros((width, 10)), "bias": jnp.zeros(10)}
    state = tx.init(head)

    @jax.jit
    def gradient(head, x, label):
        def loss(head):
            logits = x @ head["kernel"] + head["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        return jax.grad(loss)(head)

    batches = train.shuffled(BATCH, 3)
    for _ in range(STEPS):
        batch = next(batches)
        x = setting.features.select(batch["features"])
        updates, state = tx.update(gradient(head, x, batch["label"]), state, head)
        head = optax.apply_updates(head, updates)
    batches.close()
    return head


def test_a_head_of_the_grid_is_what_it_is_alone(cached):
    model, train = cached
    settings = probe_heads.list_settings(model, BATCH, (0.0, 0.1))
    plan = feature_extraction(model.groups)
    options = {"steps": STEPS, "batch_size": BATCH, "seed": 3}
    heads = probe_heads.train_heads(model, plan, settings, train, **options)
    ranked = probe_heads.rank_heads(model, heads, train, BATCH)
    assert set(ranked) == set(settings)
    for setting in [s for s in settings if s.lr in (settings[0].lr, settings[12].lr)]:
        one, ours = alone(model, setting, train), heads.params_of(setting)
        assert np.abs(ours["kernel"]).max() > 0
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(ours[name], one[name], rtol=0, atol=1e-5)
        logits = setting.features.select(train.features) @ one["kernel"] + one["bias"]
        accuracy = np.mean(np.argmax(logits, -1) == train.labels)
        assert abs(ranked[setting][0] - accuracy) <= 1 / len(train)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders for folder:PATH: three splits, and the same with exchanged test labels."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 8), ("test", 8)):
        for label, name in enumerate(("cats", "dogs")):
            folder = root / "right" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (32, 32, 3)) + 20 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    shutil.copytree(root / "right", root / "exchanged")
    test = root / "exchanged" / "test"
    (test / "cats").rename(test / "x")
    (test / "dogs").rename(test / "cats")
    (test / "x").rename(test / "dogs")
    return root


def argv(name, sources, data, workdir, *more):
    page = ["probe", "--config", CONFIGS / "feature_extraction.py", "--workdir", workdir]
    fields = {"model": name, "init_from": sources[name], "data": data, "batch_size": BATCH}
    fields |= {"steps": STEPS}
    return [*page, *(f"--config.{field}={value}" for field, value in fields.items()), *more]


def result_of(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize("name", [pytest.param(VIT, marks=pytest.mark.soak), RESNET])
def test_validation_alone_chooses_and_the_workdir_serves_if_the_head_fits(
    name, sources, photos, tmp_path, capsys
):
    for kind in ("right", "exchanged"):
        code, out, err = run(
            capsys, *argv(name, sources, f"folder:{photos / kind}", tmp_path / kind)
        )
        assert code == 0, err
    right, exchanged = result_of(tmp_path / "right"), result_of(tmp_path / "exchanged")
    assert right["probe"] == exchanged["probe"]
    assert right["val_accuracy"] == exchanged["val_accuracy"]
    assert right["test_accuracy"] == pytest.approx(1 - exchanged["test_accuracy"])
    grid = right["probe"]["grid"]
    assert len(grid) == (52 if name == VIT else 13)
    assert right["val_accuracy"] == max(row["val_accuracy"] for row in grid)
    assert f"among {len(grid)} heads" in out
    with (tmp_path / "right" / "grid.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["val_accuracy"]) for row in table] == [row["val_accuracy"] for row in grid]
    assert (tmp_path / "right" / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "right" / "head.safetensors").exists()

    code, out, err = run(capsys, "evaluate", "--workdir", tmp_path / "right")
    if right["probe"]["own_features"]:
        assert f"accuracy {right['test_accuracy']:.4f}" in out
    else:
        assert (code, "holds no checkpoint" in err) == (2, True)
    assert name == VIT or right["probe"]["own_features"]

    before = (tmp_path / "right" / "result.json").read_bytes()
    again = argv(name, sources, f"folder:{photos / 'right'}", tmp_path / "right")
    code, out, err = run(capsys, *again)
    assert (code, "holds a finished probe" in err) == (0, True)
    assert (tmp_path / "right" / "result.json").read_bytes() == before
    code, _, err = run(capsys, *again, "--weight_decays=0,1")
    assert (code, "weight decays [0.0]" in err) == (2, True)
    code, _, err = run(capsys, "train", *again[1:], "--config.lr=1")
    assert (code, "another config" in err) == (2, True)


# --- heads that are solved ----------------------------------------------------------------------


def solved_argv(name, sources, data, workdir, *more):
    page = ["probe", "--config", CONFIGS / "feature_extraction.py", "--workdir", workdir]
    fields = {"model": name, "init_from": sources[name], "data": data}
    return [*page, *(f"--config.{field}={value}" for field, value in fields.items()), *more]


@pytest.mark.parametrize("name", [VIT, pytest.param(RESNET, marks=pytest.mark.soak)])
def test_cross_validation_alone_chooses_features_and_penalty(
    name, sources, photos, tmp_path, capsys
):
    """Neither the labels of test images nor validation images, which may be none, matter."""
    shutil.copytree(photos / "exchanged", photos / f"unvalidated_{name}")
    shutil.rmtree(photos / f"unvalidated_{name}" / "val")
    found = {}
    for kind in ("right", f"unvalidated_{name}"):
        argv = solved_argv(name, sources, f"folder:{photos / kind}", tmp_path / kind)
        code, out, err = run(capsys, *argv)
        assert code == 0, err
        found[kind] = result_of(tmp_path / kind)
    right, unvalidated = found.values()
    probe = right["probe"]
    assert probe == unvalidated["probe"]
    assert right["test_accuracy"] == pytest.approx(1 - unvalidated["test_accuracy"])
    assert (right["val_size"], "validated_by" in right) == (16, False)
    assert unvalidated["validated_by"] == "cross-validation"
    assert unvalidated["val_accuracy"] == probe["chosen"]["accuracy"]

    kinds = 5 if name == VIT else 1
    assert (len(probe["choices"]), len(probe["grid"])) == (kinds, 14 * kinds)
    assert probe["chosen"] in probe["choices"]
    assert f"chosen on 24 training images out of fold, among {kinds} kinds of features" in out
    with (tmp_path / "right" / "grid.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["l2"]) for row in table] == [row["l2"] for row in probe["grid"]]
    assert (tmp_path / "right" / "grid.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run(capsys, "evaluate", "--workdir", tmp_path / "right")
    if probe["own_features"]:
        assert f"accuracy {right['test_accuracy']:.4f}" in out
    else:
        assert (code, "holds no checkpoint" in err) == (2, True)

    before = (tmp_path / "right" / "result.json").read_bytes()
    again = solved_argv(name, sources, f"folder:{photos / 'right'}", tmp_path / "right")
    code, _, err = run(capsys, *again)
    assert (code, "holds a finished probe" in err) == (0, True)
    assert (tmp_path / "right" / "result.json").read_bytes() == before


def test_the_fewest_features_within_the_noise_are_chosen(cached):
    _, train = cached
    labels = np.arange(400) % 2

    def choice(features, width, wrong):
        predicted = labels.copy()
        predicted[:wrong] = 1 - predicted[:wrong]
        head = SolvedHead(np.zeros((width, 2)), np.zeros(2), 1.0, {}, predicted)
        return SolvedChoice(features, width, head)

    own, both, all_four = (
        choice(features, width, wrong)
        for features, width, wrong in (
            (OWN, 64, 100),
            (Features(1, average_pool=True), 128, 40),
            (Features(4, average_pool=True), 320, 39),
        )
    )
    patches = choice(PATCHES, 64, 20)
    assert choose_features([own, both, all_four], labels) is both
    assert choose_features([own, all_four], labels) is all_four
    assert choose_features([own, both, all_four, patches], labels) is patches
    assert choose_features([own], labels) is own

    solved = solve_choices([PATCHES, OWN], train, 10, seed=4)
    head = solve_head(train.features[:, -1], train.labels, 10, seed=4)
    np.testing.assert_array_equal(solved[0].solved.kernel, head.kernel)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config.l2=0.1"], "l2 is 0.1, but a probe chooses it"),
        (["--weight_decays=0,1"], "optimizer is lbfgs, whose penalty"),
    ],
)
def test_what_a_solved_probe_does_not_use_is_refused(words, told, sources, tmp_path, capsys):
    argv = solved_argv(RESNET, sources, "embedded:digits", tmp_path / "new", *words)
    code, out, err = run(capsys, *argv)
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert told in lines[0]
    assert not (tmp_path / "new").exists()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config.augment=crop"], "augment is crop"),
        (["--config.head_init=random"], "head_init is random"),
        (["--config.on_error=skip"], "on_error is skip"),
        (["--config.mixup=0.2"], "mixup is 0.2"),
        (["--config.scenario=fine_tune"], "scenario is fine_tune"),
        (["--config.lora_rank=2"], "are frozen"),
        (["--config.data=embedded:digits,embedded:textures"], "one data set"),
        (["--weight_decays=-1"], "not negative"),
        (["--weight_decays=a"], "--weight_decays is 'a'"),
    ],
)
def test_what_a_probe_is_not_is_refused_and_nothing_is_written(
    words, told, sources, tmp_path, capsys
):
    code, out, err = run(capsys, *argv(VIT, sources, "embedded:digits", tmp_path / "new", *words))
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert told in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_column_of_weights_is_refused(sources, photos, tmp_path, capsys):
    files = sorted((photos / "right" / "train").rglob("*.png"))
    rows = [f"{file},{file.parent.name},{1 + n}" for n, file in enumerate(files)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,weight", *rows]))
    code, _, err = run(
        capsys, *solved_argv(RESNET, sources, f"csv:{tmp_path / 't.csv'}", tmp_path / "new")
    )
    assert (code, "has a column of weights, but a probe's heads" in err) == (2, True), err
    assert not (tmp_path / "new").exists()


def test_a_workdir_of_a_run_is_refused(sources, tmp_path, tiny_config):
    config = tiny_config(
        scenario="feature_extraction", init_from=str(sources[RESNET]), augment="none", steps=2
    )
    experiment.run(config, tmp_path, progress=False)
    with pytest.raises(InputError, match="holds a run of `tljax train`"):
        linear_probe.run_probe(config, tmp_path, progress=False)
