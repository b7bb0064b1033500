"""`flax_model.msgpack` of transformers 4: the same network as from PyTorch's names."""

import numpy as np
import pytest
from flax import serialization, traverse_util

import tljax
from tests.bits import same
from tests.reference_weights import draw_all
from tests.test_cli import run
from tljax.weights import rules
from tljax.weights.families import FAMILIES
from tljax.weights.read import read

_FAMILIES = {family.name: family for family in FAMILIES}
CASES = {
    "ViT": ("Hugging Face ViT", "vit_tiny_patch16_224", {}),
    "Dinov2": ("Hugging Face Dinov2", "vit_small_patch14_dinov2", {"depth": 1}),
    "CLIP": ("Hugging Face CLIP", "vit_base_patch32_clip_quickgelu_224", {"depth": 1}),
    "ResNet": ("Hugging Face ResNet", "resnet18", {}),
}


def as_flax(tensors):
    """The tree of transformers' Flax classes, as they name and turn PyTorch's tensors."""
    params, stats = {}, {}
    for name, array in tensors.items():
        *place, last = name.split(".")
        if last == "num_batches_tracked":
            continue
        if last in ("running_mean", "running_var"):
            stats[(*place, last.removeprefix("running_"))] = array
            continue
        if last == "weight" and array.ndim == 4:
            last, array = "kernel", array.transpose(2, 3, 1, 0)
        elif last == "weight" and place[-1] == "position_embedding":
            last = "embedding"
        elif last == "weight" and array.ndim == 2:
            last, array = "kernel", array.T
        elif last == "weight":
            last = "scale"
        params[(*place, last)] = np.ascontiguousarray(array)
    tree = traverse_util.unflatten_dict(params)
    return {"params": tree, "batch_stats": traverse_util.unflatten_dict(stats)} if stats else tree


@pytest.mark.parametrize("kind", CASES)
def test_a_file_of_flax_is_the_network(kind, tmp_path):
    family, name, fields = CASES[kind]
    model = tljax.create(name, 10, **fields)
    drawn = draw_all(model, tljax.models.spec(name).preprocessing.image_size)
    if kind == "CLIP":
        drawn["head/bias"][:] = 0
    tensors = rules.unconvert(_FAMILIES[family], model, drawn)
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(as_flax(tensors)))
    found = read(path).tensors
    assert found.keys() == tensors.keys()
    assert all(same(found[key], np.ascontiguousarray(tensors[key])) for key in tensors)
    if not fields:  # a whole network
        _, variables, _ = tljax.load(name, path, num_classes=None)
        flat = rules.flatten(variables)
        assert flat.keys() == drawn.keys()
        assert all(same(np.asarray(flat[key]), drawn[key]) for key in drawn)


def test_a_folder_with_such_a_file_alone_is_read(tmp_path):
    model = tljax.create("resnet18", 10)
    tensors = rules.unconvert(_FAMILIES["Hugging Face ResNet"], model, draw_all(model, 64))
    file = tmp_path / "flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize(as_flax(tensors)))
    assert tljax.load("resnet18", tmp_path, num_classes=None)[0].num_classes == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            serialization.msgpack_serialize({"wte": {"embedding": np.zeros((5, 3))}}),
            "holds none of the tensors",
        ),
        (serialization.msgpack_serialize({"a": 3}), "truncated or not a .msgpack file"),
        (serialization.msgpack_serialize([1, 2]), "truncated or not a .msgpack file"),
        (b"\x82\xa1a", "truncated or not a .msgpack file"),
        (b"", "truncated or not a .msgpack file"),
    ],
)
def test_another_file_is_refused_in_one_sentence(content, message, tmp_path, capsys):
    file = tmp_path / "flax_model.msgpack"
    file.write_bytes(content)
    argv = ["convert", file, "--model", "resnet18", "--output", tmp_path / "out.safetensors"]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()
    assert message in err
