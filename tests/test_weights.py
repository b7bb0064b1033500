"""Weights files, names and addresses: what loads, and what is refused."""

import json
import logging
import os
import pickle
import shutil
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import tljax
from tests.reference_weights import draw
from tljax import experiment, weights
from tljax.cli import main
from tljax.errors import InputError
from tljax.models import MODELS, create
from tljax.models.preprocessing import parse_normalisation
from tljax.models.tracing import abstract_variables
from tljax.weights import rules, zoo
from tljax.weights.families import TIMM_VIT, TORCH_RESNET
from tljax.weights.read import read

VIT, RESNET = "vit_micro_patch4_32", "resnet10_32"
FAMILIES = {VIT: TIMM_VIT, RESNET: TORCH_RESNET}


def drawn(name, num_classes=5, size=32):
    """Random variables of a model, by path."""
    abstract = abstract_variables(create(name, num_classes), size)
    return {path: draw(path, leaf.shape) for path, leaf in rules.flatten(abstract).items()}


def torch_tensors(name, num_classes=5):
    """The same by PyTorch's names."""
    flat = drawn(name, num_classes)
    tensors = rules.unconvert(FAMILIES[name], create(name, num_classes), flat)
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


@pytest.fixture
def vit_file(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(torch_tensors(VIT), path)
    return path


# --- what loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_a_file_gives_its_weights_and_a_new_zero_head(name, tmp_path):
    save_file(torch_tensors(name), tmp_path / "file.safetensors")
    _, variables, _ = tljax.load(name, tmp_path / "file.safetensors", num_classes=7)
    expected = drawn(name)
    for path, leaf in rules.flatten(variables).items():
        if path.startswith("head/"):
            assert leaf.shape[-1] == 7
            assert not np.any(leaf)
        else:
            assert np.array_equal(leaf, expected[path]), path


def test_the_head_is_kept_on_purpose(vit_file):
    model, variables, _ = tljax.load(VIT, vit_file, num_classes=None)
    assert model.num_classes == 5
    assert np.array_equal(variables["params"]["head"]["kernel"], drawn(VIT)["head/kernel"])


def test_a_source_without_a_head_has_none_to_keep(tmp_path):
    tensors = torch_tensors(VIT)
    headless = {name: array for name, array in tensors.items() if not name.startswith("head.")}
    save_file(headless, tmp_path / "backbone.safetensors")
    tljax.load(VIT, tmp_path / "backbone.safetensors", num_classes=0)
    with pytest.raises(InputError, match="no head to keep"):
        tljax.load(VIT, tmp_path / "backbone.safetensors", num_classes=None)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    halves = {name: array.astype(np.float16) for name, array in torch_tensors(VIT).items()}
    save_file(halves, tmp_path / "half.safetensors")
    _, variables, _ = tljax.load(VIT, tmp_path / "half.safetensors", num_classes=0)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_a_network_can_be_cut_after_a_block(vit_file):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    whole, all_variables, _ = tljax.load(VIT, vit_file, num_classes=0, pooling="none")
    short, variables, _ = tljax.load(
        VIT, vit_file, num_classes=0, last_group="block1", pooling="none"
    )
    assert short.groups.names == ("embed", "block0", "block1", "head")
    tokens = whole.apply(all_variables, x, stop=3)
    ends = short.apply(variables, x)
    mean, var = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    norm = variables["params"]["norm"]
    expected = (tokens - mean) / np.sqrt(var + 1e-6) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(ends, expected, atol=1e-4)
    with pytest.raises(InputError, match="did you mean 'block1'"):
        tljax.load(VIT, vit_file, num_classes=0, last_group="blok1")


@pytest.mark.parametrize("size", [48, (24, 40)])
def test_an_image_size_of_its_own(vit_file, size):
    model, variables, preprocessing = tljax.load(VIT, vit_file, num_classes=0, image_size=size)
    height, width = preprocessing.height_width
    assert variables["params"]["embed"]["pos_embed"].shape[1] == 1 + height * width // 16
    assert tljax.features(model, variables, np.zeros((1, height, width, 3), np.float32)).shape == (
        (1, 64)
    )


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels(name, channels, tmp_path):
    save_file(torch_tensors(name), tmp_path / "file.safetensors")
    cut = {"num_classes": 0, "last_group": "block0" if name == VIT else "layer1_0"}
    model, variables, preprocessing = tljax.load(
        name, tmp_path / "file.safetensors", in_channels=channels, **cut
    )
    assert len(preprocessing.mean) == len(preprocessing.std) == channels
    grey = np.random.default_rng(0).standard_normal((2, 32, 32, 1)).astype(np.float32)
    features = tljax.features(model, variables, np.repeat(grey, channels, axis=-1))
    if channels == 1:
        rgb, all_variables, _ = tljax.load(name, tmp_path / "file.safetensors", **cut)
        expected = tljax.features(rgb, all_variables, np.repeat(grey, 3, axis=-1))
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_a_workdir_serves_another_image_size(tmp_path, tiny_config):
    config = tiny_config(model=VIT, last_group="block0", steps=2)
    experiment.fit_config(config, tmp_path / "source")
    config = tiny_config(
        scenario="feature_extraction", model=VIT, last_group="block0", steps=2, image_size=48
    )
    config.init_from = str(tmp_path / "source")
    result = experiment.fit_config(config)
    assert result.variables["params"]["embed"]["pos_embed"].shape == (1, 145, 64)


# --- preprocessing ------------------------------------------------------------------------------

TIMM = {"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 32, 32]}}
TRANSFORMERS = {
    "image_mean": [0.1] * 3,
    "image_std": [0.2] * 3,
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "resample": 2,
}


@pytest.mark.parametrize(
    ("filename", "content", "ratio", "interpolation"),
    [
        ("config.json", TIMM, 0.875, "bicubic"),
        ("preprocessor_config.json", TRANSFORMERS, 0.8, "bilinear"),
    ],
)
def test_the_file_beside_the_weights_says_how_images_are_prepared(
    vit_file, filename, content, ratio, interpolation
):
    vit_file.with_name(filename).write_text(json.dumps(content))
    _, _, preprocessing = tljax.load(VIT, vit_file, num_classes=2)
    assert preprocessing.mean == (0.1,) * 3
    assert preprocessing.crop_ratio == ratio
    assert preprocessing.interpolation == interpolation


def test_the_config_follows_the_weights_and_is_warned_where_it_does_not(
    vit_file, tiny_config, caplog
):
    vit_file.with_name("config.json").write_text(json.dumps(TIMM))
    config = tiny_config(scenario="feature_extraction", model=VIT, last_group="block0", steps=1)
    config.init_from = str(vit_file)
    assert experiment.resolve(config).normalisation == "0.1 0.1 0.1 0.2 0.2 0.2"
    with caplog.at_level(logging.WARNING, "tljax"):
        experiment.fit_config(config)
        assert not caplog.messages
        config.normalisation = "half"
        experiment.fit_config(config)
    (warning,) = caplog.messages
    assert "normalisation=half" in warning
    assert "0.1" in warning


def test_weights_that_say_nothing_of_their_images_are_mentioned(vit_file, tiny_config, caplog):
    config = tiny_config(scenario="feature_extraction", model=VIT, last_group="block0", steps=1)
    config.init_from = str(vit_file)
    with caplog.at_level(logging.WARNING, "tljax"):
        experiment.fit_config(config)
    (warning,) = caplog.messages
    assert "it is not known how the images of" in warning


def test_a_zoo_name_settles_the_preprocessing_without_its_weights():
    found = weights.find_preprocessing("vit_base_patch16_224.mae")
    assert found.normalisation == "imagenet"
    assert MODELS["vit_base_patch16_224"].preprocessing.normalisation == "half"


def test_a_home_folder_is_found_and_its_workdir_keeps_its_preprocessing(
    tmp_path, tiny_config, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny_config(
        model=VIT, last_group="block0", steps=1, normalisation="imagenet", crop_ratio=0.5
    )
    experiment.fit_config(config, tmp_path / "source")
    config = tiny_config(scenario="feature_extraction", model=VIT, last_group="block0", steps=1)
    config.init_from = "~/source"
    resolved = experiment.resolve(config)
    assert (resolved.normalisation, resolved.crop_ratio) == ("imagenet", 0.5)
    assert resolved.init_from == str(tmp_path / "source")
    _, _, preprocessing = tljax.load(VIT, "~/source", num_classes=2, last_group="block0")
    assert preprocessing.normalisation == "imagenet"


def test_a_normalisation_keeps_its_digits():
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    given = tljax.models.Preprocessing(32, mean, std)
    assert parse_normalisation(given.normalisation) == (mean, std)


def test_a_sidecar_that_makes_no_sense_is_named(vit_file):
    for content in (
        {"pretrained_cfg": {"mean": 0.5, "std": 0.5}},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.0] * 3}},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "random"}},
    ):
        vit_file.with_name("config.json").write_text(json.dumps(content))
        assert "config.json" in refused(vit_file)


def test_the_classes_of_a_run_are_its_own(photo_folder, tiny_config, tmp_path, caplog):
    config = tiny_config(data=f"folder:{photo_folder}", train_size=None, steps=1, image_size=32)
    result = experiment.fit_config(config, tmp_path / "run").summary
    (photo_folder / "cats").rename(photo_folder / "tigers")
    (evaluated,) = experiment.evaluate_workdir(tmp_path / "run", "test")
    assert evaluated.evaluation.accuracy == result["test_accuracy"]
    assert "8 images" in caplog.text
    assert "are in other class folders than when the run began" in caplog.text
    other = f"folder:{photo_folder.parent / 'other'}"
    shutil.copytree(photo_folder, photo_folder.parent / "other")
    trained = experiment.read_workdir(tmp_path / "run")
    with pytest.raises(InputError, match=r"dogs, tigers, but .* trained on cats, dogs"):
        experiment.same_classes(trained, other)
    kept = tiny_config(scenario="fine_tune", data=f"folder:{photo_folder}", train_size=None)
    kept.update({"head_init": "pretrained", "init_from": str(tmp_path / "run")})
    with pytest.raises(InputError, match="dogs, tigers, but"):
        experiment.fit_config(kept, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


# --- what is refused, in one sentence -----------------------------------------------------------


class Evil:
    """Creates a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def refused(path, name=VIT):
    """The error message for a file."""
    with pytest.raises(InputError) as caught:
        tljax.load(name, path, num_classes=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file(vit_file, kept):
    content = vit_file.read_bytes()
    vit_file.write_bytes(content[: int(kept * len(content))])
    assert "truncated" in refused(vit_file)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5"])
def test_a_file_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_text("<html>404</html>")
    assert "truncated or not" in refused(path)


def test_an_array_and_a_text_under_the_name_of_an_archive(tmp_path):
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "truncated or not" in refused(tmp_path / "array.npz")
    tensors = {**torch_tensors(VIT), "norm.bias": np.array(["a"] * 64)}
    np.savez(tmp_path / "text.npz", **tensors)
    assert "'norm.bias', which is not a tensor of numbers" in refused(tmp_path / "text.npz")


def test_code_in_a_pickle_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "evil.npz", cls=np.array([Evil(marker)], dtype=object))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"w": Evil(marker)}))
    with zipfile.ZipFile(tmp_path / "zipped.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Evil(marker)}))
        archive.writestr("archive/version", "3")
    for name in ("evil.npz", "evil.pth", "zipped.pth"):
        refused(tmp_path / name)
        assert not marker.exists(), name
    pickle.loads((tmp_path / "evil.pth").read_bytes())  # by itself, pickle runs it
    assert marker.exists()


def test_pth_needs_torch_or_names_the_alternative(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    try:
        import torch  # noqa: F401
    except ImportError:
        assert "safetensors" in refused(tmp_path / "weights.pth")
        assert "needs PyTorch" in refused("resnet50.IMAGENET1K_V1", "resnet50")  # not fetched
    else:
        assert "truncated" in refused(tmp_path / "weights.pth")


def test_another_architecture(vit_file):
    assert "none of the tensors of a resnet18" in refused(vit_file, "resnet18")


def test_all_mismatches_come_together(tmp_path):
    tensors = torch_tensors(VIT)
    del tensors["blocks.0.norm1.bias"]
    tensors["blocks.9.extra"] = np.zeros((2, 3), np.float32)
    tensors["blocks.1.attn.qkv.weight"] = np.ascontiguousarray(
        tensors["blocks.1.attn.qkv.weight"].T
    )
    save_file(tensors, tmp_path / "bad.safetensors")
    sentence = refused(tmp_path / "bad.safetensors")
    assert "3 places" in sentence
    assert "blocks.0.norm1.bias is missing" in sentence
    assert "blocks.9.extra (2, 3) has no place" in sentence
    assert "blocks.1.attn.qkv.weight has shape (64, 192) instead of (192, 64)" in sentence


def test_names_that_do_not_exist(tmp_path):
    assert "did you mean 'vit_small_patch14_dinov2.lvd142m'" in refused(
        "vit_small_patch14_dinov2.lvd142"
    )
    assert "vit_base_patch16_224" in refused("vit_base_patch16_224.mae")
    assert "ends in none of" in refused(_file(tmp_path / "weights.onnx"))
    assert "ends in none of" in refused("https://localhost:9/weights.onnx")
    assert "not a workdir" in refused(tmp_path)


def _file(path):
    path.write_bytes(b"x")
    return path


def test_the_command_line_says_it_in_one_sentence_and_leaves_nothing(tmp_path, vit_file, capsys):
    vit_file.write_bytes(vit_file.read_bytes()[:-100])
    workdir = tmp_path / "run"
    code = main(
        [
            *("train", "--config", "configs/feature_extraction.py", "--workdir", str(workdir)),
            *(f"--config.model={VIT}", f"--config.init_from={vit_file}"),
        ]
    )
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.startswith("tljax: cannot read")
    assert "\n" not in error
    assert not workdir.exists()


# --- the zoo ------------------------------------------------------------------------------------


def test_every_entry_of_the_zoo_can_be_built_and_says_where_it_is_from():
    for name, entry in zoo.entries().items():
        assert entry.model in MODELS, name
        assert entry.address.startswith(("hf://", "https://", "gs://")), name
        assert entry.source, name
        assert entry.name == name


def test_the_figures_of_the_zoo_are_those_of_the_models():
    small = {e.model: e for e in zoo.entries().values() if e.parameters < 30e6}
    assert len(small) > 10
    for model, entry in small.items():
        size = entry.preprocessing.image_size
        abstract = abstract_variables(create(model, entry.num_classes), size)
        assert tljax.models.parameter_count(abstract["params"]) == entry.parameters, entry.name


def test_reading_tells_metadata_from_tensors(tmp_path):
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "a.safetensors", {"k": "v"})
    contents = read(tmp_path / "a.safetensors")
    assert contents.metadata == {"k": "v"}
    assert list(contents.tensors) == ["a"]


def test_models_lists_and_filters(capsys):
    assert main(["models", "dinov2"]) == 0
    listed = capsys.readouterr().out
    assert "vit_small_patch14_dinov2.lvd142m" in listed
    assert "resnet50" not in listed
    assert main(["models", "--csv", "resnet50.*"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("name,model,address")
    assert all(row.startswith("resnet50.") for row in rows[1:])
    assert main(["models", "resnet51.tv_in1k"]) == 2
    assert "did you mean 'resnet50.tv_in1k'" in capsys.readouterr().err
