"""What holds for each family of networks: names there and back, remat, LoRA, the scenarios."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tljax
from tests.bits import same
from tests.reference_weights import draw_all
from tests.test_cli import run
from tests.test_plan_laws import FURTHER, network
from tljax import config as config_lib
from tljax import experiment
from tljax.errors import InputError
from tljax.models import registry
from tljax.models.lora import LoRA
from tljax.weights import rules
from tljax.weights.export import family_of
from tljax.weights.families import FAMILIES

NARROW = {"dim": 32, "depth": 2, "heads": 2}
BLOCKS = {"stage_sizes": (1, 1, 2, 1), "widths": (8, 16, 24, 32)}
MODELS = {
    "convnext_tiny": BLOCKS,
    "convnextv2_tiny": BLOCKS,
    "vit_small_patch16_dinov3": NARROW,
    "vit_small_plus_patch16_dinov3_qkvb": NARROW,
    "vit_base_patch16_clip_quickgelu_224": NARROW,
    "vit_base_patch16_siglip_224": NARROW,
    "mobilenetv4_conv_small": {},
    "tf_efficientnet_lite0": {},
}
SMALL = ("convnext_micro_32", "mobilenetv3_micro_32")


@pytest.mark.parametrize("name", MODELS)
def test_weights_get_the_names_of_every_family_and_come_back_bit_for_bit(name):
    model = tljax.create(name, 10, **MODELS[name])
    drawn = draw_all(model, 64)
    shapes = {path: array.shape for path, array in drawn.items()}
    if model.__class__ is tljax.models.ViT and model.pre_norm:
        drawn["head/bias"][:] = 0  # which CLIP's projection lacks
    tried = [family for family in FAMILIES if family.rules and family.accepts(model)]
    assert tried
    for family in tried:
        tensors = rules.unconvert(family, model, drawn)
        back = rules.convert(family, model, shapes, tensors, "a test")
        kept = {path for path in drawn if path in back}
        assert {path for path in drawn if not path.startswith("head/")} <= kept, family.name
        assert all(same(back[path], drawn[path]) for path in kept), family.name
    assert family_of("timm", name, tljax.create(name, 10)).accepts(model)


@pytest.mark.parametrize("name", FURTHER)
def test_remat_computes_the_same_gradient(name):
    model, variables = network(name)
    model = model.clone(drop_path=0.0)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    def gradient(model):
        def loss(params):
            return jnp.square(model.apply({**variables, "params": params}, x)).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    plain, again = gradient(model), gradient(model.clone(remat=True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + float(jnp.abs(a).max())))


@pytest.mark.parametrize("name", ["dinov3", "clip", "siglip"])
def test_lora_adapts_attention_and_mlp_and_can_be_merged(name):
    model, variables = network(name)
    adapted = model.clone(lora=LoRA(2, targets=r"block\d/(attn/qkv|mlp/fc1)"), drop_path=0.0)
    drawn = tljax.models.init(adapted, jax.random.key(1), 32)
    layers = drawn["params"]["block0"]
    assert set(layers["attn"]["qkv"]) - set(variables["params"]["block0"]["attn"]["qkv"])
    moved = jax.tree.map(lambda leaf: leaf + 0.01, drawn)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    merged = tljax.merge_lora(adapted, moved)
    np.testing.assert_allclose(
        merged[0].apply(merged[1], x), adapted.apply(moved, x), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_small_member_goes_through_the_four_scenarios(name, tmp_path):
    words = [f"--config.model={name}", "--config.data=embedded:digits", "--config.train_size=40"]
    words += ["--config.batch_size=8", "--config.val_fraction=0"]
    short = ["--config.steps=2", "--config.wise_ft=False"]  # which may end at the start
    source = config_lib.load("from_scratch", [*words, "--config.steps=2"])
    experiment.run(source, tmp_path / "source", progress=False)
    start = [f"--config.init_from={tmp_path / 'source'}", "--config.accept_source=True"]
    before = experiment.read_workdir(tmp_path / "source").variables
    for scenario, more in (
        ("feature_extraction", []),
        ("freeze_first", short),
        ("fine_tune", short),
    ):
        config = config_lib.load(scenario, [*words, *start, *more])
        result = experiment.fit_config(config, progress=False)
        moved = not same(
            np.asarray(result.variables["params"]["stem"]["conv"]["kernel"]),
            np.asarray(before["params"]["stem"]["conv"]["kernel"]),
        )
        assert moved == (scenario == "fine_tune")


def test_oblong_images_of_a_network_with_rotary_positions():
    name = "vit_small_patch16_dinov3"
    model = registry.at_image_size(tljax.create(name, 5, **NARROW), (32, 64))
    assert model.grid == (2, 4)
    variables = tljax.models.init(model, jax.random.key(0), (32, 64))
    x = jax.random.normal(jax.random.key(1), (2, 32, 64, 3))
    whole = model.apply(variables, x)
    half = model.apply(variables, model.apply(variables, x, stop=2), start=2)
    assert same(np.asarray(whole), np.asarray(half))
    turned = model.clone(grid=(4, 2)).apply(variables, model.apply(variables, x, stop=1), start=1)
    assert not np.allclose(turned, whole)
    with pytest.raises(ValueError, match="set it to their rows and columns"):
        model.clone(grid=(3, 3)).apply(variables, x)


def test_weights_of_a_relative_are_refused_in_one_sentence(tmp_path, capsys):
    v3 = tljax.create("vit_small_patch16_dinov3", 10)
    tensors = rules.unconvert(
        family_of("timm", "vit_small_patch16_dinov3", v3), v3, draw_all(v3, 32)
    )
    from safetensors.numpy import save_file

    file = tmp_path / "v3.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, file)
    argv = [
        "convert",
        file,
        "--model",
        "vit_small_patch14_dinov2",
        "--output",
        tmp_path / "o.safetensors",
    ]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    text = tmp_path / "text.safetensors"
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": np.zeros((4, 4), np.float32)}, text)
    with pytest.raises(InputError, match="holds none of the tensors"):
        tljax.load("vit_base_patch32_clip_224", text, num_classes=0)


@pytest.mark.soak
def test_many_devices_take_the_step_of_one():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "tests.many_devices", "--further"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    steps = json.loads(done.stdout)["steps"]
    assert set(steps) == set(FURTHER)
    for name, step in steps.items():
        for mesh, differences in step["differences"].items():
            assert max(differences.values()) < 1e-4, (name, mesh)
        assert step["stays"], name
        assert [tuple(s) for s in step["slots"]] == [tuple(s) for s in step["slots_wanted"]], name
