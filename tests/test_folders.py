"""Weights in the folders, shards and checkpoints that other libraries write."""

import json
import logging
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tljax
from tests.test_unwrapping import RESNET, assert_same, expected, named, tensors_of, two
from tljax import experiment, weights
from tljax.config import base
from tljax.errors import InputError
from tljax.weights import rules
from tljax.weights.families import TORCH_RESNET
from tljax.weights.families.resnet import HF_RESNET
from tljax.weights.folders import fetch_weights, find_cached

TIMM_CONFIG = {
    "architecture": "resnet10",
    "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 32, 32]},
}
HF_CONFIG = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}


def load(source, **options):
    """The variables, by path, of a network of weights with their own head."""
    _, variables, _ = tljax.load(RESNET, source, num_classes=None, **options)
    return rules.flatten(variables)


def save_cut(folder, tensors, parts=3, suffix=".safetensors"):
    """Writes weights as `save_pretrained` does if they are large; returns the index."""
    names = sorted(tensors)
    files = [f"model-{n + 1:05}-of-{parts:05}{suffix}" for n in range(parts)]
    for n, file in enumerate(files):
        save_file({name: tensors[name] for name in names[n::parts]}, folder / file)
    index = {name: files[n % parts] for n, name in enumerate(names)}
    path = folder / f"model{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return path


@pytest.fixture
def saved(tmp_path):
    """A folder with a config.json, and no weights yet."""
    folder = tmp_path / "saved"
    (folder / "checkpoints").mkdir(parents=True)  # some libraries keep older ones there
    (folder / "config.json").write_text(json.dumps(TIMM_CONFIG))
    (folder / "README.md").write_text("a card\n")
    return folder


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_of_save_pretrained_is_a_source(saved, tiny_config):
    save_file(tensors_of(HF_RESNET), saved / "model.safetensors")
    (saved / "training_args.bin").write_bytes(b"")
    assert_same(load(saved), expected())
    assert weights.find_preprocessing(str(saved)).normalisation == "0.1 0.1 0.1 0.2 0.2 0.2"
    config = tiny_config(scenario="feature_extraction", model=RESNET)
    config.init_from = str(saved)
    built = experiment.build(config, fetch_weights=True)
    assert not built.warnings
    assert built.config.normalisation == "0.1 0.1 0.1 0.2 0.2 0.2"
    found = rules.flatten(built.read_pretrained())
    assert np.array_equal(found["stem/conv/kernel"], expected()["stem/conv/kernel"])


def test_the_only_weights_file_of_a_folder_is_taken(saved):
    save_file(tensors_of(TORCH_RESNET), saved / "resnet.safetensors")
    assert_same(load(saved), expected())
    save_file({"a": np.ones(2, np.float32)}, saved / "other.safetensors")
    with pytest.raises(InputError, match=r"2 weights files \(other.safetensors, resnet.safetens"):
        load(saved)
    (saved / "resnet.safetensors").rename(saved / "model.safetensors")
    assert_same(load(saved), expected())


def test_a_folder_of_weights_is_no_workdir_and_a_workdir_no_folder_of_weights(
    saved, tiny_config, tmp_path
):
    save_file(tensors_of(TORCH_RESNET), saved / "model.safetensors")
    with pytest.raises(InputError) as raised:
        experiment.read_workdir(saved)
    message = str(raised.value)
    assert "another program's (its weights can be used with init_from)" in message
    assert "tljax.config.base()" not in message
    before = (saved / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"a config\.json that tljax did not write"):
        experiment.run(tiny_config(steps=1), saved)
    assert (saved / "config.json").read_bytes() == before
    assert not (saved / ".lock").exists()

    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(base().to_json())
    save_file(tensors_of(TORCH_RESNET), run / "model.safetensors")  # e.g. exported into it
    assert experiment.source_workdir(str(run)) == run
    with pytest.raises(InputError, match="is a workdir of tljax, but holds no weights"):
        load(run)


@pytest.mark.parametrize("files", [(), ("config.json",), ("config.json", "notes.txt")])
def test_a_folder_without_weights_is_named_as_that(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text(json.dumps(HF_CONFIG))
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    message = str(raised.value)
    assert f"'{tmp_path}' is not a workdir of tljax, and holds no weights file" in message
    assert "save_pretrained" in message


def test_a_workdir_is_one_network(tmp_path):
    (tmp_path / "config.json").write_text(base().to_json())
    with pytest.raises(InputError, match="chooses a network of a weights file"):
        load(tmp_path, init_key="ema")


def test_an_older_workdir_lacks_the_newest_fields(tmp_path):
    fields = json.loads(base().to_json())
    del fields["init_key"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert experiment.read_config(tmp_path).init_key is None
    del fields["lr"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError) as raised:
        experiment.read_config(tmp_path)
    assert "lacks the field lr; restore it, or train anew" in str(raised.value)
    assert "tljax.config.base()" not in str(raised.value)


# --- shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["folder", "index"])
def test_weights_that_were_cut_into_several_files(saved, given):
    index = save_cut(saved, named("model.", tensors_of(TORCH_RESNET)))
    source = saved if given == "folder" else index
    assert_same(load(source), expected())
    assert weights.find_preprocessing(str(source)).mean == (0.1,) * 3
    assert find_cached(str(saved)) == index
    assert len(fetch_weights(str(source)).paths) == 3


def test_a_missing_or_incomplete_shard_is_named(saved):
    index = save_cut(saved, tensors_of(TORCH_RESNET))
    shard = saved / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(InputError, match=r"no file '.*model-00002-of-00003\.safetensors'"):
        load(index)
    save_file({"a": np.ones(1, np.float32)}, shard)
    with pytest.raises(InputError, match=r"lack \S+ and \d+ more tensors that its index names"):
        load(index)
    shard.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"00002-of-00003\.safetensors': it is truncated"):
        load(index)
    shard.write_bytes((saved / "model-00001-of-00003.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"two files of '.*' hold \S+; fetch them again"):
        load(index)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 9999),
        *('{"weight_map": {"a": "../secret.safetensors"}}', '{"weight_map": {"a": "notes.txt"}}'),
        '{"weight_map": {"a": "/etc/x.safetensors"}}',
    ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(InputError, match="does not say which files hold the weights"):
        load(index)


def test_a_json_file_is_no_index_by_its_suffix_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError) as raised:
        load(tmp_path / "config.json")
    assert "ends in none of .safetensors, " in str(raised.value)
    assert "convert it" not in str(raised.value)


# --- PyTorch's files ----------------------------------------------------------------------------


def torch_state(tensors):
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def checkpoint(path, content):
    torch = pytest.importorskip("torch")
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "name", ["w.pth", "w.pt", "w.bin", "w.ckpt", "model_best.pth.tar", "pytorch_model.bin"]
)
def test_checkpoints_of_training_scripts(tmp_path, name, caplog):
    state = torch_state(named("model.", tensors_of(TORCH_RESNET)))
    buffer = {"state": {0: {"exp_avg": state["model.conv1.weight"].clone()}}}
    whole = {"state_dict": state, "epoch": 3, "optimizer": buffer, "args": None}
    path = checkpoint(tmp_path / name, whole)
    with caplog.at_level(logging.WARNING, "tljax"):
        assert_same(load(path), expected())
    (left_out,) = caplog.messages
    assert "optimizer.*" in left_out
    if name == "pytorch_model.bin":
        assert_same(load(tmp_path), expected())


def test_a_nested_student_and_teacher(tmp_path):
    tensors = two("module.backbone.", "backbone.")
    half = len(tensors) // 2
    state = torch_state(tensors)
    parts = dict(list(state.items())[:half]), dict(list(state.items())[half:])
    path = checkpoint(tmp_path / "dino.pth", {"student": parts[0], "teacher": parts[1]})
    doubled = {name: 2 * array for name, array in expected().items()}
    assert_same(load(path), doubled)
    assert_same(load(path, init_key="student"), expected())


def test_shards_of_pytorch(tmp_path):
    index = save_cut(tmp_path, tensors_of(TORCH_RESNET), suffix=".bin")
    for shard in set(json.loads(index.read_text())["weight_map"].values()):
        checkpoint(tmp_path / shard, torch_state(load_file(tmp_path / shard)))
    assert_same(load(index), expected())


def test_half_precision_views_and_ties_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    state = torch_state(tensors_of(TORCH_RESNET))
    state["fc.weight"] = state["fc.weight"].T.contiguous().T  # strides of another order
    state["bn1.weight"] = state["bn1.weight"].requires_grad_()
    path = checkpoint(tmp_path / "w.pt", {"model": state, "ema": state})
    assert_same(load(path), expected())
    halves = {name: array.to(torch.bfloat16) for name, array in state.items()}
    found = load(checkpoint(tmp_path / "half.pt", halves))
    np.testing.assert_allclose(found["head/kernel"], expected()["head/kernel"], rtol=1e-2)


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for shape in ((200_000_000,), (2**20, 2**20), (2**40,)):
        path = checkpoint(tmp_path / "bomb.pth", {"conv1.weight": torch.zeros(1).expand(*shape)})
        assert path.stat().st_size < 4000
        with pytest.raises(InputError, match=r"it describes [\d,]+ bytes of tensors"):
            load(path)


def test_a_packed_checkpoint_that_would_fill_the_memory_is_refused(tmp_path):
    pytest.importorskip("torch")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**8))
    with pytest.raises(InputError, match=r"it describes 100,000,000 bytes of tensors"):
        load(tmp_path / "bomb.pth")


def test_tensors_that_are_no_numbers_in_memory_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.empty(3, device="meta"),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    ):
        with pytest.raises(InputError, match="cannot read"):
            load(checkpoint(tmp_path / "odd.pth", {"conv1.weight": tensor}))


def test_what_only_code_can_read_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="could run code"):
        load(checkpoint(tmp_path / "model.pth", torch.nn.Linear(2, 2)))
    with pytest.raises(InputError, match="holds no state_dict"):
        load(checkpoint(tmp_path / "list.pth", [1, 2]))
    itself = {"a": torch.ones(2)}
    itself["again"] = itself
    with pytest.raises(InputError, match="none of the tensors"):
        load(checkpoint(tmp_path / "itself.pth", itself))
