"""A network is found in a weights file behind any wrapper, beside any other, under any old head."""

import logging

import numpy as np
import pytest
from safetensors.numpy import save_file

import tljax
from tests.reference_weights import draw_all
from tljax import experiment
from tljax.errors import InputError
from tljax.models import create
from tljax.weights import rules
from tljax.weights.families import GOOGLE_VIT, TIMM_VIT, TORCH_RESNET
from tljax.weights.families.resnet import HF_RESNET
from tljax.weights.families.vit import HF_DINOV2, HF_VIT
from tljax.weights.rules import unconvert
from tljax.weights.unwrapping import find_network

VIT, RESNET = "vit_micro_patch4_32", "resnet10_32"


def tensors_of(family, name=RESNET, scale=1.0, **fields):
    """Random tensors under a family's names; the head has five classes."""
    model = create(name, 5, **fields)
    drawn = {path: scale * array for path, array in draw_all(model, 32).items()}
    return {
        key: np.ascontiguousarray(array) for key, array in unconvert(family, model, drawn).items()
    }


def named(prefix, tensors):
    return {f"{prefix}{name}": array for name, array in tensors.items()}


def without_head(tensors):
    heads = ("fc.", "head.", "classifier.", "head/")
    return {name: array for name, array in tensors.items() if not name.startswith(heads)}


def loaded(path, tensors, name=RESNET, num_classes=7, **options):
    """The variables, by path, that `tljax.load` makes of a file of these tensors."""
    save_file(tensors, path)
    _, variables, _ = tljax.load(name, path, num_classes=num_classes, **options)
    return rules.flatten(variables)


def body(flat):
    return {path: leaf for path, leaf in flat.items() if not path.startswith("head/")}


def expected(name=RESNET, scale=1.0):
    return {path: scale * array for path, array in draw_all(create(name, 5), 32).items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        assert np.array_equal(found[path], array), path


@pytest.fixture
def log(caplog):
    """Records warnings; their messages are in `log.messages`."""
    caplog.set_level(logging.WARNING, "tljax")
    return caplog


# --- wrappers -----------------------------------------------------------------------------------

WRAPPERS = (
    *("module.", "model.", "net.", "backbone.", "encoder.", "timm_model.", "visual.trunk."),
    *("_orig_mod.", "module._orig_mod.", "module._orig_mod.model.backbone.", "teacher.backbone."),
    *("lit.0.", "state_dict.model.", "params/", "wörter.9x-1."),
)


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_a_prefix_of_all_names_is_found_whatever_its_words(prefix, tmp_path, log):
    tensors = named(prefix, tensors_of(TORCH_RESNET))
    flat = loaded(tmp_path / "w.safetensors", tensors, num_classes=None)
    assert_same(flat, expected())
    assert not log.messages


def test_wrappers_of_single_modules_are_found_too(tmp_path, log):
    """torch.compile and FSDP can wrap each block; FSDP, the whole as well."""
    tensors = tensors_of(TORCH_RESNET)
    for prefix, inner in (
        ("", "._orig_mod."),
        ("model._fsdp_wrapped_module.", "._fsdp_wrapped_module._checkpoint_wrapped_module."),
    ):
        wrapped = {
            name.replace("layer2.0.", f"layer2.0{inner}"): array for name, array in tensors.items()
        }
        flat = loaded(tmp_path / "w.safetensors", named(prefix, wrapped), num_classes=None)
        assert_same(flat, expected())
    assert not log.messages
    both = wrapped | tensors
    with pytest.raises(InputError):
        loaded(tmp_path / "w.safetensors", both)


@pytest.mark.parametrize(
    ("family", "name", "fields"),
    [
        (TORCH_RESNET, RESNET, {}),
        (HF_RESNET, RESNET, {}),
        (TIMM_VIT, VIT, {}),
        (HF_VIT, VIT, {}),
        (HF_DINOV2, VIT, {"layer_scale": 1e-5}),
        (GOOGLE_VIT, VIT, {}),
    ],
)
def test_every_kind_of_names_may_be_wrapped(family, name, fields):
    model, tensors = create(name, 5, **fields), tensors_of(family, name, **fields)
    shapes = {path: array.shape for path, array in draw_all(model, 32).items()}
    bare = find_network([family], model, shapes, tensors, "file", name)
    assert bare.tensors.keys() == tensors.keys()
    for prefix in ("a.b.encoder.", "x/"):
        network = find_network([family], model, shapes, named(prefix, tensors), "file", name)
        assert network.tensors.keys() == tensors.keys()
        assert not network.notes


@pytest.mark.parametrize("outer", ["", "module."])
@pytest.mark.parametrize("head", ["fc.", "backbone.fc."])
def test_a_head_beside_the_wrapped_body_is_the_head(outer, head, tmp_path, log):
    tensors = tensors_of(TORCH_RESNET)
    wrapped = named(f"{outer}backbone.", without_head(tensors))
    wrapped |= {f"{outer}{head}{leaf}": tensors[f"fc.{leaf}"] for leaf in ("weight", "bias")}
    flat = loaded(tmp_path / "w.safetensors", wrapped, num_classes=None)
    assert_same(flat, expected())
    assert not log.messages


def test_a_wrapped_network_of_another_kind_is_refused_with_its_faults(tmp_path):
    deeper = named("model.", tensors_of(TORCH_RESNET, stage_sizes=(1, 1, 1, 2)))
    with pytest.raises(InputError, match=r"layer4\.1\.conv1\.weight .* has no place in the model"):
        loaded(tmp_path / "w.safetensors", deeper)
    missing = named("model.", tensors_of(TORCH_RESNET))
    del missing["model.layer2.0.bn1.bias"]
    with pytest.raises(InputError, match=r"in 1 place: layer2\.0\.bn1\.bias is missing"):
        loaded(tmp_path / "w.safetensors", missing)


def test_a_norm_of_the_networks_own_is_not_taken_for_a_head(tmp_path):
    """CLIP's networks have one before the blocks: without it the features are wrong."""
    tensors = tensors_of(TIMM_VIT, VIT)
    tensors |= {f"norm_pre.{leaf}": np.ones(64, np.float32) for leaf in ("weight", "bias")}
    tensors["dist_token"] = np.ones((1, 1, 64), np.float32)
    with pytest.raises(
        InputError, match=r"in 3 places: dist_token .*norm_pre\.bias \(64,\) has no"
    ):
        loaded(tmp_path / "w.safetensors", tensors, VIT)


def test_parts_that_fit_by_chance_are_no_network_and_no_choice(tmp_path):
    """Many networks have a bn1 in each of their blocks."""
    names = {f"blocks.{n}.bn1.{leaf}": (16,) for n in range(3) for leaf in ("weight", "bias")}
    tensors = {name: np.ones(shape, np.float32) for name, shape in names.items()}
    with pytest.raises(InputError, match=r"only 2 of the \d+ tensors of a resnet10_32"):
        loaded(tmp_path / "w.safetensors", tensors)


def test_a_name_of_many_parts_is_read_in_time(tmp_path):
    tensors = {**tensors_of(TORCH_RESNET), "." * 100_000: np.ones((2, 2), np.float32)}
    with pytest.raises(InputError, match="has no place in the model"):
        loaded(tmp_path / "w.safetensors", tensors)


# --- several networks ---------------------------------------------------------------------------


def two(first, second, tensors=None):
    """A file with a network under `first`, and twice its numbers under `second`."""
    tensors = tensors or tensors_of(TORCH_RESNET)
    return named(first, tensors) | named(second, {key: 2 * x for key, x in tensors.items()})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("student.module.backbone.", "teacher.backbone."),
        ("model.", "model_ema."),
        ("state_dict.", "state_dict_ema.module."),
        ("", "ema."),
        ("net.", "EMA."),
    ],
)
def test_averaged_weights_are_taken_and_that_is_said(first, second, tmp_path, log):
    path = tmp_path / "w.safetensors"
    flat = loaded(path, two(first, second), num_classes=None)
    assert_same(flat, {name: 2 * array for name, array in expected().items()})
    choice, left_out = log.messages
    chosen = second.rstrip(".")
    assert f"'{path}' holds several networks that fit" in choice
    assert f"taking {chosen}, the averaged weights" in choice
    assert f"init_key={first.rstrip('.') or chr(39) * 2} takes another" in choice
    assert left_out.startswith(f"left out of '{path}': ")
    assert f"the network was read from {second}*" in left_out


@pytest.mark.parametrize("key", ["student", "student.module", "student.module.backbone"])
def test_a_field_chooses_another(key, tmp_path, log, tiny_config):
    tensors = two("student.module.backbone.", "teacher.backbone.")
    flat = loaded(tmp_path / "w.safetensors", tensors, num_classes=None, init_key=key)
    assert_same(flat, expected())
    count = len(tensors) // 2
    assert log.messages == [
        f"left out of '{tmp_path / 'w.safetensors'}': teacher.* ({count} tensors); the network was"
        " read from student.module.backbone.*"
    ]
    config = tiny_config(scenario="feature_extraction", model=RESNET)
    config.update({"init_from": str(tmp_path / "w.safetensors"), "init_key": key})
    variables = experiment.pretrained_variables(config, create(RESNET, 5), 32)
    assert_same(rules.flatten(variables), expected())


def test_names_without_a_prefix_can_be_chosen(tmp_path):
    flat = loaded(tmp_path / "w.safetensors", two("", "ema."), num_classes=None, init_key="")
    assert_same(flat, expected())


def test_several_networks_of_which_none_is_averaged_are_an_error(tmp_path):
    tensors = two("module.encoder_q.", "module.encoder_k.")
    with pytest.raises(InputError) as raised:
        loaded(tmp_path / "w.safetensors", tensors)
    message = str(raised.value)
    assert "under module.encoder_k and module.encoder_q" in message
    assert "choose one with init_key, e.g. init_key=module.encoder_q" in message
    flat = loaded(tmp_path / "w.safetensors", tensors, num_classes=None, init_key="encoder_q")
    assert_same(flat, expected())
    with pytest.raises(InputError, match="begins with init_key=encoder; set it to one of module, "):
        loaded(tmp_path / "w.safetensors", tensors, init_key="encoder")


def test_one_network_under_two_names_is_no_choice(tmp_path, log):
    tensors = tensors_of(TORCH_RESNET)
    twice = named("module.model.", tensors) | named("module.attacker.model.", tensors)
    assert_same(loaded(tmp_path / "w.safetensors", twice, num_classes=None), expected())
    (left_out,) = log.messages
    assert f"module.attacker.* ({len(tensors)} tensors)" in left_out


def test_the_network_of_the_right_size_is_found_beside_a_larger_one(tmp_path):
    """A student that is distilled from a wider teacher."""
    wide = tensors_of(TIMM_VIT, VIT, dim=128, depth=6)
    tensors = named("teacher.", wide) | named("student.", tensors_of(TIMM_VIT, VIT))
    flat = loaded(tmp_path / "w.safetensors", tensors, VIT, num_classes=None)
    assert_same(flat, expected(VIT))


def test_averages_that_lack_statistics_are_not_preferred(tmp_path, log):
    """An average of the parameters alone cannot be used without the statistics."""
    tensors = two("model.", "ema.")
    partly = {
        name: array
        for name, array in tensors.items()
        if not (name.startswith("ema.") and "running" in name)
    }
    flat = loaded(tmp_path / "w.safetensors", partly, num_classes=None)
    assert_same(flat, expected())
    assert "ema.* (" in log.messages[0]


# --- old heads ----------------------------------------------------------------------------------

WIDTH = 128  # of the features of RESNET
HEADS = {
    "two layers": {"fc.0.weight": (9, WIDTH), "fc.0.bias": (9,), "fc.3.weight": (5, 9)},
    "another name": {"head.weight": (5, WIDTH), "head.bias": (5,)},
    "no bias": {"fc.weight": (5, WIDTH)},
    "a bias of another length": {"fc.weight": (5, WIDTH), "fc.bias": (6,)},
    "other features": {"fc.weight": (5, 2 * WIDTH), "fc.bias": (5,)},
    "a convolution": {"last_linear.weight": (5, WIDTH, 1, 1)},
    "with a norm": {"classifier.0.weight": (WIDTH,), "classifier.1.weight": (5, WIDTH)},
    "a projector": {"proj.0.weight": (9, WIDTH), "prototypes.weight": (3, 9)},
    "a temperature": {"fc.weight": (5, WIDTH), "logit_scale": ()},
}


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("kind", HEADS)
def test_an_old_head_of_any_kind_is_dropped_and_named(kind, prefix, tmp_path, log):
    head = {name: np.ones(shape, np.float32) for name, shape in HEADS[kind].items()}
    tensors = named(prefix, without_head(tensors_of(TORCH_RESNET)) | head)
    path = tmp_path / "w.safetensors"
    flat = loaded(path, tensors)
    assert_same(body(flat), body(expected()))
    assert not any(np.any(leaf) for name, leaf in flat.items() if name.startswith("head/"))
    (left_out,) = log.messages
    for module in {f"{prefix}{name}".removesuffix(name.partition(".")[2]) for name in head}:
        assert module in left_out
    with pytest.raises(InputError) as raised:
        loaded(path, tensors, num_classes=None)
    message = str(raised.value)
    assert "has no head to keep (fc.bias and fc.weight would make one, and it holds" in message
    assert all(name in message for name in head)


def test_a_run_that_keeps_the_head_says_what_is_missing(tmp_path, tiny_config):
    tensors = tensors_of(TORCH_RESNET)
    del tensors["fc.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    config = tiny_config(model=RESNET, scenario="fine_tune", steps=1, head_init="pretrained")
    config.init_from = str(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"and it holds fc\.weight \(5, 128\)\); leave head_init"):
        experiment.fit_config(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_behind_a_layer_that_we_lack_is_not_kept(tmp_path):
    """Its logits would be wrong."""
    tensors = tensors_of(TIMM_VIT, VIT)
    tensors |= {"pre_logits.fc.weight": np.eye(64, dtype=np.float32)}
    assert_same(body(loaded(tmp_path / "w.safetensors", tensors, VIT)), body(expected(VIT)))
    with pytest.raises(InputError, match=r"it holds .*pre_logits\.fc\.weight \(64, 64\)"):
        loaded(tmp_path / "w.safetensors", tensors, VIT, num_classes=None)


def test_the_head_of_a_classifier_of_other_features_is_named(tmp_path, log):
    """Hugging Face's DINOv2 classifies the class token together with the patches' mean."""
    model, fields = create(VIT, 5, layer_scale=1e-5), {"layer_scale": 1e-5}
    tensors = named("dinov2.", tensors_of(HF_DINOV2, VIT, **fields))
    tensors["classifier.weight"] = np.zeros((5, 128), np.float32)
    shapes = {path: array.shape for path, array in draw_all(model, 32).items()}
    network = find_network([HF_DINOV2], model, shapes, tensors, "file", VIT)
    assert network.notes == (
        "left out of 'file': classifier.*; the network was read from dinov2.*",
    )


# --- whole checkpoints --------------------------------------------------------------------------


def test_what_a_training_script_keeps_besides_is_left_out_and_counted(tmp_path, log):
    tensors = tensors_of(TORCH_RESNET)
    kept = named("state_dict.model.", tensors)
    kept |= {f"optimizer.state.{n}.exp_avg": np.zeros(3, np.float32) for n in range(40)}
    kept |= {"state_dict.criterion.weight": np.ones(5, np.float32)}
    kept |= {"state_dict.model.bn1.num_batches_tracked": np.ones((), np.int64)}
    assert_same(loaded(tmp_path / "w.safetensors", kept, num_classes=None), expected())
    (left_out,) = log.messages
    assert "optimizer.* (40 tensors)" in left_out
    assert "state_dict.criterion.*" in left_out
    assert "num_batches_tracked" not in left_out
