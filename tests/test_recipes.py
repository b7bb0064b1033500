"""The recipes: rates, trained parameters, L2-SP, the BiT rule, and every config file."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import tljax
from tests.bits import changed_paths, same
from tests.soak.campaign import compare
from tests.tfds_builders import CatsVsDogs
from tests.watched import Watched
from tljax import cli, experiment, weights
from tljax import config as config_lib
from tljax import data as data_lib
from tljax.commands.sweep.listing import list_runs
from tljax.data import Preprocessing
from tljax.data.transforms import augmentation
from tljax.errors import InputError
from tljax.experiment import hyperrules
from tljax.models import ResNet, ViT, init, registry, tracing
from tljax.models.groups import leaf_paths
from tljax.runs.checkpoints import Checkpoints
from tljax.training.options import TrainingOptions
from tljax.training.setup import new_variables
from tljax.training.step import step_of_run
from tljax.transfer import (
    discriminative,
    feature_extraction,
    fine_tune,
    freeze_first,
    learning_rate_schedule,
    lp_ft,
    surgical,
)
from tljax.weights.export import family_of
from tljax.weights.rules import assignments

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.py"))
RECIPES.remove("lora")  # not for ResNets: see test_lora.py
NETWORKS = {
    "resnet": ResNet((1,), (8,), False, num_classes=10, stem=(3, 2), stem_pool=False),
    "vit": ViT(32, 2, 2, 4, num_classes=10),
}
PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)
networks = pytest.mark.parametrize("name", NETWORKS)


def leaves(tree):
    """{path: leaf} in float64."""
    flat = zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
    return {path: np.asarray(leaf, np.float64) for path, leaf in flat}


def drawn(name, seed):
    """Random values for a network's parameters."""
    rng = np.random.default_rng(seed)
    params = tracing.abstract_variables(NETWORKS[name], 16)["params"]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


# --- rates ----------------------------------------------------------------------------------------


def timm_layer(name, blocks):
    """Returns the layer of a ResNet's or a ViT's tensor, by timm's `group_matcher`."""
    if re.match(r"conv1|bn1|cls_token|pos_embed|patch_embed", name):
        return 0
    if found := re.match(r"layer\d+\.\d+|blocks\.\d+", name):
        return 1 + blocks.index(found[0])
    return len(blocks) if name.startswith("norm") else len(blocks) + 1


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet50", [f"layer{s}.{b}" for s, n in enumerate((3, 4, 6, 3), 1) for b in range(n)]),
        ("vit_small_patch16_224", [f"blocks.{i}" for i in range(12)]),
    ],
)
def test_layer_decay_gives_timms_rates(name, blocks):
    """decay ** (layers - 1 - layer), by timm's names of the tensors."""
    model = registry.create(name, 10)
    params = tracing.abstract_variables(model, 224)["params"]
    plan = fine_tune(model.groups, backbone=1.0, decay=0.7)
    paths = leaf_paths(params)
    for assignment in assignments(family_of("timm", name, model), model, paths):
        for source in assignment.sources:
            wanted = 0.7 ** (len(blocks) + 1 - timm_layer(source, blocks))
            for path in assignment.targets:
                assert plan.scale(path) == pytest.approx(wanted), path
    assert len(plan.groups) == len(blocks) + 2


@pytest.mark.parametrize("count", ["resnet", "vit"])
def test_discriminative_rates_are_spread_geometrically(count):
    groups = NETWORKS[count].groups
    scale = discriminative(groups).lr_scale
    assert (scale[0], scale[-1]) == (pytest.approx(0.01), 1.0)
    ratios = np.divide(scale[1:], scale[:-1])
    assert ratios == pytest.approx(100 ** (1 / (len(groups) - 1)))
    halved = discriminative(groups, spread=10, backbone=0.5).lr_scale
    assert (halved[0], halved[-1]) == (pytest.approx(0.05), 1.0)
    assert discriminative(groups, spread=1).lr_scale == (1.0,) * len(groups)


@networks
def test_the_first_step_moves_each_group_by_its_rate_times_its_gradient(name):
    params = drawn(name, seed=0)
    plan = discriminative(NETWORKS[name].groups)
    tx = plan.optimizer("sgd", learning_rate=0.1, momentum=0.0)
    gradient = drawn(name, seed=1)
    updates, _ = tx.update(gradient, tx.init(params), params)
    gradient = leaves(gradient)
    for path, update in leaves(updates).items():
        rate = 0.1 * plan.lr_scale[plan.groups.depth(path)]
        np.testing.assert_allclose(update, -rate * gradient[path], rtol=1e-5, err_msg=path)


# --- a range of groups ----------------------------------------------------------------------------


def test_surgery_trains_the_range_and_a_new_head():
    groups = NETWORKS["vit"].groups
    assert surgical(groups, 1, 2).lr_scale == (0, 1, 1, 1)
    assert surgical(groups, 0, 0).lr_scale == (1, 0, 0, 1)
    assert surgical(groups, 1, 1, head="pretrained").lr_scale == (0, 1, 0, 0)
    for first, last in ((2, 1), (-1, 1), (1, 3)):
        with pytest.raises(InputError, match="no range of this model's groups"):
            surgical(groups, first, last)


# --- L2-SP ----------------------------------------------------------------------------------------


@networks
def test_l2_sp_adds_the_gradient_of_its_penalty(name):
    params, now = drawn(name, seed=0), drawn(name, seed=1)
    plan = fine_tune(NETWORKS[name].groups, backbone=0.5)
    alpha, beta = 0.3, 0.05
    tx = plan.optimizer("sgd", learning_rate=1.0, momentum=0.0, l2_sp=(alpha, beta))
    state = tx.init(params)

    def loss(p):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(p))

    def penalised(p):
        total = loss(p)
        for group in p:
            w, start = jax.tree.leaves(p[group]), jax.tree.leaves(params[group])
            if group == "head":
                total += beta / 2 * sum(jnp.sum(a**2) for a in w)
            else:
                total += (
                    alpha / 2 * sum(jnp.sum((a - b) ** 2) for a, b in zip(w, start, strict=True))
                )
        return total

    updates, _ = jax.jit(tx.update)(jax.jit(jax.grad(loss))(now), state, now)
    wanted = leaves(jax.jit(jax.grad(penalised))(now))
    for path, update in leaves(updates).items():
        np.testing.assert_allclose(
            update, -plan.scale(path) * wanted[path], rtol=1e-4, atol=1e-6, err_msg=path
        )


@pytest.fixture(scope="module")
def pretrained():
    return init(NETWORKS["resnet"], jax.random.key(3), 16)


@pytest.fixture(scope="module")
def fit_l2_sp(pretrained):
    """fit(workdir, alpha, fail_at=None): a run of ten steps at a high rate."""
    digits = data_lib.load("embedded:digits", train_size=40)
    model = NETWORKS["resnet"]
    plan = fine_tune(model.groups, backbone=1.0)

    def fit(workdir=None, alpha=0.0, fail_at=None):
        train = digits.train if fail_at is None else Watched(digits.train, fail_at)
        options = {"steps": 16, "batch_size": 8, "lr": 0.05, "schedule": "constant"}
        options |= {"eval_every": 4, "checkpoint_every": 2, "progress": False, "keep": 9}
        return tljax.fit(
            model,
            pretrained,
            plan,
            train,
            digits.val,
            preprocessing=PREPROCESSING,
            workdir=workdir,
            l2_sp_alpha=alpha,
            l2_sp_beta=alpha / 10,
            **options,
        )

    return fit


def test_a_strong_pull_keeps_the_weights_near_their_start(fit_l2_sp, pretrained):
    def distance(result):
        now, start = leaves(result.last["params"]), leaves(pretrained["params"])
        backbone = [path for path in start if not path.startswith("head")]
        return np.sqrt(sum(np.sum((now[path] - start[path]) ** 2) for path in backbone))

    free, pulled = distance(fit_l2_sp()), distance(fit_l2_sp(alpha=10.0))
    assert 0 < pulled < 0.2 * free


def test_a_resumed_run_is_pulled_to_the_same_weights(fit_l2_sp, pretrained, tmp_path):
    fit_l2_sp(tmp_path / "straight", alpha=10.0)
    with pytest.raises(KeyboardInterrupt):
        fit_l2_sp(tmp_path / "killed", alpha=10.0, fail_at=8 * 12)
    assert Checkpoints(tmp_path / "killed" / "checkpoints").steps()[0] > 0, "or this tests nothing"
    fit_l2_sp(tmp_path / "killed", alpha=10.0)
    assert compare(tmp_path / "straight", tmp_path / "killed") == []
    kept = Checkpoints(tmp_path / "killed" / "checkpoints").read(16).opt_state
    held = {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(kept)}
    backbone = {name: tree for name, tree in pretrained["params"].items() if name != "head"}
    assert {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(backbone)} <= held
    with pytest.raises(InputError, match=r"l2_sp_alpha was 10.0 and is 0.1"):
        fit_l2_sp(tmp_path / "killed", alpha=0.1)


def test_a_pull_of_nothing_is_refused(pretrained):
    model, images = NETWORKS["resnet"], (np.zeros((8, 16, 16, 3), np.uint8), np.arange(8) % 10)
    head_alone, stages = feature_extraction(model.groups), lp_ft(fine_tune(model.groups))
    with pytest.raises(InputError, match="trains nothing whose init is pretrained"):
        tljax.fit(model, pretrained, head_alone, images, None, l2_sp_alpha=0.1)
    with pytest.raises(InputError, match="stage 1 of 2: l2_sp_alpha is"):
        tljax.fit_stages(model, pretrained, stages, images, None, l2_sp_alpha=0.1)


# --- the first groups pretrained, random ones above them ------------------------------------------


def start_of(plan, seed, pretrained):
    options = TrainingOptions(seed=seed)
    return plan.initialise(
        new_variables(NETWORKS["resnet"], 16, options, plan.init), pretrained
    ), new_variables(NETWORKS["resnet"], 16, options)


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_groups_are_the_sources_and_the_others_are_the_seeds(n, pretrained):
    """Before training, and for frozen groups also after it."""
    model = NETWORKS["resnet"]
    plan = freeze_first(model.groups, n, init_k=n)
    start, random = start_of(plan, 7, pretrained)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    train = (images, np.arange(16) % 10)
    given = {"preprocessing": PREPROCESSING, "steps": 5, "batch_size": 8, "lr": 0.1, "seed": 7}
    given |= {"progress": False}
    after = tljax.fit(model, pretrained, plan, train, None, **given).last
    for collection, tree in start.items():
        for path in leaf_paths(tree):
            of_source = model.groups.depth(path) < n
            now, before, fresh = (
                traverse_util.flatten_dict(variables[collection], sep="/")[path]
                for variables in (start, pretrained, random)
            )
            assert same(now, before if of_source else fresh), path
            moved = traverse_util.flatten_dict(after[collection], sep="/")[path]
            assert same(moved, now) == of_source, path
            assert plan.starts_pretrained(path) == of_source


def test_plans_that_differ_in_their_start_share_a_step():
    model = NETWORKS["resnet"]
    plans = [fine_tune(model.groups, 1.0, init_k=n) for n in range(3)]
    given = (PREPROCESSING, TrainingOptions(batch_size=8))
    steps = {step_of_run(model, plan, *given)[1] for plan in plans}
    assert len(steps) == 1
    pulled = (PREPROCESSING, TrainingOptions(batch_size=8, l2_sp_alpha=0.1))
    assert len({step_of_run(model, plan, *pulled)[1] for plan in plans[1:]}) == 2


# --- BiT-HyperRule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_size", "steps", "warmup", "drops", "mixup"),
    [
        (800, 500, 100, (200, 300, 400), 0.0),
        (19_999, 500, 100, (200, 300, 400), 0.0),
        (20_000, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
        (499_999, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
        (500_000, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
    ],
)
def test_the_bit_rule_has_the_papers_numbers(train_size, steps, warmup, drops, mixup):
    fields = hyperrules.bit(train_size, 96 * 96)
    assert (fields["steps"], fields["warmup"], fields["mixup"]) == (steps, warmup, mixup)
    rest = {name: fields[name] for name in ("warmup", "milestones")}
    schedule = learning_rate_schedule(fields["schedule"], fields["lr"], steps, **rest)
    rates = np.asarray(jax.vmap(schedule)(np.arange(steps)))
    assert rates[0] == 0
    for drop, factor in zip(drops, (1, 0.1, 0.01), strict=True):
        assert rates[drop - 1] == pytest.approx(0.003 * factor)
        assert rates[drop] == pytest.approx(0.0003 * factor)
    assert (fields["image_size"], *fields["crop_area"]) == (128, 0.64, 0.64)
    large = hyperrules.bit(train_size, 96 * 96 + 1)
    assert (large["image_size"], large["crop_area"][0]) == (480, pytest.approx((480 / 512) ** 2))


def test_the_rule_settles_what_nobody_set(tmp_path):
    page = str(CONFIGS / "recipes" / "bit_hyperrule.py")
    config = config_lib.load(page, ["--config.data=embedded:digits"])
    settled = experiment.resolve(config)
    assert (settled.batch_size, settled.steps, settled.schedule) == (512, 500, "step")
    assert experiment.resolve(settled) == settled
    given = ["--config.data=embedded:digits", "--config.batch_size=64", "--config.schedule=cosine"]
    mine = experiment.resolve(config_lib.load(page, given))
    assert (mine.batch_size, mine.schedule, mine.lr) == (64, "cosine", 0.003), "also at the default"
    longer = experiment.resolve(config_lib.load(page, [given[0], "--config.epochs=10"]))
    assert (longer.steps, longer.epochs) == (None, 10.0)
    many = data_lib.ArraySource(np.zeros((20_000, 97, 97, 1), np.uint8), np.zeros(20_000, int))
    large = hyperrules.apply(config, data_lib.Dataset("many", ("zero",), many, None, None))
    assert (large.steps, large.mixup, large.image_size) == (10_000, 0.1, 480)
    text = (CONFIGS / "recipes" / "bit_hyperrule.py").read_text()
    sweep = '\n\ndef sweep():\n    yield {"batch_size": 64}\n    yield {"lr": 0.01, "k": None}\n'
    (tmp_path / "page.py").write_text(text + sweep)
    runs = list_runs(str(tmp_path / "page.py"), given[:1])
    swept = [experiment.resolve(run.config) for run in runs]
    assert [(run.batch_size, run.lr) for run in swept] == [(64, 0.003), (512, 0.01)]


def test_a_resized_crop_has_the_images_own_shape():
    """Pixels hold their coordinates, which shows that each crop spans 0.8 of both sides."""
    rows, columns = np.mgrid[:100, :200]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    crop = augmentation("resize_crop_flip")
    seen = [crop(image, PREPROCESSING, np.random.default_rng(i), (0.64, 0.64)) for i in range(20)]
    for axis, side in enumerate((100, 200)):
        lows, highs = zip(*((s[..., axis].min(), s[..., axis].max()) for s in seen), strict=True)
        spans = np.subtract(highs, lows, dtype=int)
        assert np.all(np.abs(spans - 0.8 * side) < 0.08 * side)
        assert len(set(lows)) > 5, "at random places"


# --- config files ---------------------------------------------------------------------------------


# A network of each family, cut after its first block.
CUT = {"resnet10_32": "layer1_0", "vit_micro_patch4_32": "block0"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A source run of each network, by the network's name."""
    made = {}
    for name, block in CUT.items():
        config = config_lib.base()
        config.augment = "crop_flip"
        fields = {"model": name, "last_group": block, "scenario": "from_scratch"}
        fields |= {"data": "embedded:digits_shifted", "train_size": 16, "image_size": 16}
        config.update(fields | {"steps": 1, "eval_every": 9, "batch_size": 8})
        made[name] = tmp_path_factory.mktemp("source") / name
        experiment.run(config, made[name], progress=False)
    return made


def page(recipe, name, sources, workdir):
    return [
        *("train", "--config", str(CONFIGS / "recipes" / f"{recipe}.py")),
        *("--workdir", str(workdir), f"--config.model={name}", "--config.data=embedded:digits"),
        *(f"--config.init_from={sources[name]}", f"--config.last_group={CUT[name]}"),
        "--config.accept_source=True",  # a step does not beat the naive baseline
        *("--config.image_size=16", "--config.train_size=16", "--config.batch_size=8"),
        *("--config.steps=3", "--config.warmup=0", "--config.eval_every=3", "--config.lr=0.1"),
    ]


# The parameters that a recipe changes, if not all: a regex.
MOVES = {
    "bitfit": r"head/.*|.*bias",
    "norm_only": r"head/.*|((layer1_0/conv\d|stem)/bn|block0/norm\d|norm)/(scale|bias)",
    "surgical": r"head/.*|(layer1_0|block0|norm)/.*",
}
STATISTICS = {"bitfit": r"nothing", "surgical": r"layer1_0/.*"}


@pytest.mark.parametrize(
    ("recipe", "name"),
    [  # every recipe with one of the networks; a soak tests the others
        pytest.param(recipe, name, marks=[] if (i + j) % len(CUT) == 0 else pytest.mark.soak)
        for i, recipe in enumerate(RECIPES)
        for j, name in enumerate(CUT)
    ],
)
def test_every_page_meets_every_model_and_data_set(recipe, name, sources, tmp_path, capsys):
    """The run changes the parameters of the recipe, and not a bit of the others."""
    argv = page(recipe, name, sources, tmp_path)
    assert cli.main(argv) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 3
    assert 0 <= result["test_accuracy"] <= 1
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    after = Checkpoints(tmp_path / "checkpoints").read(steps[0]).variables
    config = experiment.read_config(tmp_path)
    exp = experiment.build(config)
    given = experiment.pretrained_variables(config, exp.model, 16)
    before = dict(
        given,
        params=given["params"] | {"head": jax.tree.map(np.zeros_like, after["params"]["head"])},
    )
    wanted = {
        f"params/{path}"
        for path in leaf_paths(after["params"])
        if re.fullmatch(MOVES.get(recipe, ".*"), path)
    } | {
        f"batch_stats/{path}"
        for path in leaf_paths(after.get("batch_stats", {}))
        if re.fullmatch(STATISTICS.get(recipe, ".*"), path)
    }
    moved = changed_paths(before, after)
    assert moved <= wanted
    if not exp.stages:  # with stages, the last one is one step here
        assert moved == wanted


@pytest.mark.parametrize(
    ("recipe", "tables"), [("surgical", 1), ("bit_hyperrule", 1), ("l2_sp", 1), ("lp_ft", 2)]
)
def test_plan_shows_a_table_for_each_stage(recipe, tables, sources, tmp_path, capsys):
    _, *argv = page(recipe, "vit_micro_patch4_32", sources, tmp_path)
    assert cli.main(["plan", *argv[:2], *argv[4:]]) == 0
    assert capsys.readouterr().out.count("law: at most") == tables


def test_a_workdir_of_stages_serves_every_command(sources, photo_folder, tmp_path, capsys):
    source = shutil.copytree(sources["resnet10_32"], tmp_path / "source")
    workdir = tmp_path / "runs" / "staged"
    argv = page("lp_ft", "resnet10_32", {"resnet10_32": source}, workdir)
    assert cli.main(argv) == 0
    config = config_lib.load(argv[2], argv[5:])
    first = experiment.run(config, workdir)
    shutil.rmtree(source)
    again = experiment.run(config, workdir)
    assert again.summary == first.summary
    assert again.history == first.history
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints")  # as if killed between stages
    for other in ("lr=0.5", "stages=None"):
        assert cli.main([*argv, f"--config.{other}"]) == 2
        assert other.split("=")[0] in capsys.readouterr().err
    assert cli.main(argv) == 0
    assert experiment.run(config, workdir).history == first.history
    capsys.readouterr()
    report = tmp_path / "report.html"
    for command in (
        ["evaluate", "--workdir", str(workdir)],
        ["predict", "--workdir", str(workdir), str(photo_folder)],
        ["report", str(workdir), "--output", str(report)],
    ):
        assert cli.main(command) == 0, capsys.readouterr().err
    assert f"accuracy {first.summary['test_accuracy']:.4f}" in capsys.readouterr().out
    assert "fine tune" in report.read_text()


def test_the_textbooks_example_can_be_built(tmp_path):
    """From a head of 1000 classes to one of two, with small data and shapes for weights."""
    CatsVsDogs(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    path = str(CONFIGS / "cats_vs_dogs.py")
    config = config_lib.load(path, [f"--config.data_dir={tmp_path}"])
    exp = experiment.build(config)
    assert exp.class_names == ("cat", "dog")
    assert weights.find_preprocessing(config.init_from) == exp.preprocessing
    dataset = experiment.load_data(config)
    splits = (dataset.train, dataset.val, dataset.test)
    assert [len(split) for split in splits] == [16, 2, 2]
    given = tracing.abstract_variables(registry.create("resnet50", 1000), 224)
    new = tracing.abstract_variables(exp.model, 224)
    built = exp.plan.initialise(new, given)
    assert built["params"]["head"]["kernel"].shape == (2048, 2)
    assert exp.plan.init == ("pretrained",) * 17 + ("random",)
    assert exp.plan.trained_groups(built["params"]) == (True,) * 18
