"""`tljax convert` and `tljax export`: a round trip to PyTorch and back is bit-identical."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import tljax
from tests.reference_weights import draw_all
from tests.test_cli import run
from tljax import cli, experiment, weights
from tljax import config as config_lib
from tljax.errors import InputError
from tljax.files import replacing
from tljax.models import Preprocessing, registry, tracing
from tljax.runs.resume import best_variables
from tljax.weights import rules, zoo
from tljax.weights.export import family_of, save_converted
from tljax.weights.families import GOOGLE_VIT, HF_DINOV2, TLJAX
from tljax.weights.model_card import Export, constructor
from tljax.weights.preprocessing import preprocessing_to_json

SMALL = ("resnet10_32", "vit_micro_patch4_32")
IGNORED = {
    "resnet10_32": {"bn1.num_batches_tracked": np.zeros((), np.int64)},
    "vit_micro_patch4_32": {"mask_token": np.ones((1, 64), np.float32)},
}


def run_quietly(*argv):
    return cli.main([str(word) for word in argv])


def header(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def torch_tensors(name):
    """Random tensors by PyTorch's names, for a network with seven classes."""
    model = registry.create(name, 7)
    return rules.unconvert(family_of("timm", name, model), model, draw_all(model, 32))


@pytest.fixture(scope="module", params=SMALL)
def trained(request, tmp_path_factory):
    """(workdir, its model) of a run that trains a new head on digits."""
    base = tmp_path_factory.mktemp("trained")
    save_file(torch_tensors(request.param), base / "source.safetensors")
    config = config_lib.base()
    config.augment = "crop_flip"
    config.update(
        {
            "data": "embedded:digits",
            "model": request.param,
            "scenario": "feature_extraction",
            "init_from": str(base / "source.safetensors"),
            "normalisation": "half",
            "train_size": 40,
            "steps": 4,
            "batch_size": 16,
            "eval_every": 2,
            "lr": 0.05,
        }
    )
    experiment.run(config, base / "run")
    return base / "run", request.param


@pytest.mark.parametrize("name", SMALL)
def test_to_our_names_and_back_gives_every_tensor_bit_for_bit(name, tmp_path, capsys):
    tensors = torch_tensors(name)
    save_file({**tensors, **IGNORED[name]}, tmp_path / "torch.safetensors")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    code, out, err = run(
        capsys, "convert", tmp_path / "torch.safetensors", "--model", name, "--output", ours
    )
    assert code == 0, err
    assert str(ours) in out
    argv = ["--model", name, "--format", "timm", "--output", back]
    code, out, err = run(capsys, "export", "--init_from", ours, *argv)
    assert code == 0, err
    assert str(back.with_suffix(".md")) in out
    returned = load_file(back)
    assert returned.keys() == tensors.keys()
    assert all(returned[key].tobytes() == tensors[key].tobytes() for key in tensors)
    assert all(returned[key].shape == tensors[key].shape for key in tensors)


@pytest.mark.parametrize("name", SMALL)
def test_a_converted_file_says_what_it_is_and_is_a_source(name, tmp_path):
    source, ours = tmp_path / "torch.safetensors", tmp_path / "ours.safetensors"
    save_file(torch_tensors(name), source)
    assert run_quietly("convert", source, "--model", name, "--output", ours) == 0
    says = header(ours)
    assert set(says) == {"format", "model", "preprocessing", "origin", "family", "resampling"}
    assert (says["format"], says["model"], says["origin"]) == ("tljax", name, str(source))
    assert weights.find_preprocessing(str(ours)) == registry.spec(name).preprocessing
    tensors = load_file(ours)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    model, variables, preprocessing = tljax.load(name, ours, num_classes=None)
    assert model.num_classes == 7
    assert preprocessing == registry.spec(name).preprocessing
    flat = rules.flatten(variables)
    assert flat.keys() == tensors.keys()
    assert all(np.asarray(flat[path]).tobytes() == tensors[path].tobytes() for path in flat)
    other = next(other for other in SMALL if other != name)
    with pytest.raises(InputError, match=f"holds a {name}"):
        tljax.load(other, ours, num_classes=3)


def test_an_exported_run_is_read_back_bit_for_bit(trained, tmp_path, capsys):
    workdir, name = trained
    output = tmp_path / "e.safetensors"
    code, _, err = run(
        capsys, "export", "--workdir", workdir, "--format", "timm", "--output", output
    )
    assert code == 0, err
    best = rules.flatten(best_variables(workdir))
    read = weights.load(str(output), name).arrays
    assert read.keys() == best.keys()
    assert all(read[path].tobytes() == np.asarray(best[path]).tobytes() for path in best)
    config = experiment.read_config(workdir)
    assert weights.find_preprocessing(str(output)) == experiment.preprocessing_of(config)


def test_card_and_metadata_say_how_it_was_made(trained, tmp_path):
    workdir, name = trained
    output = tmp_path / "e.safetensors"
    argv = ("export", "--workdir", workdir, "--format", "timm", "--output", output)
    assert run_quietly(*argv) == 0
    says = header(output)
    assert (says["format"], says["model"]) == ("pt", name)
    assert json.loads(says["class_names"]) == list("0123456789")
    result = json.loads((workdir / "result.json").read_text())
    about = json.loads(says["about"])
    assert about["Results"]["test_accuracy"] == result["test_accuracy"]
    card = output.with_suffix(".md").read_text()
    for words in (
        'load_state_dict(load_file("e.safetensors"), strict=True)',
        "num_classes=10",
        "embedded:digits",
        "feature_extraction",
        str(workdir.parent / "source.safetensors"),
        "9. `9`",
        f"| test_balanced_accuracy | {result['test_balanced_accuracy']} |",
        "| mean | 0.5 0.5 0.5 |",
        "| head | random, 1 |",
    ):
        assert words in card, words
    assert run_quietly(*argv) == 0, "a second export replaces the first"


def test_a_run_is_traced_back_to_published_weights(tmp_path):
    """Even through a converted file; licence and source of the weights are the zoo's."""
    entry = next(e for e in zoo.entries().values() if e.model == "resnet18")
    model = registry.create("resnet18", 3)
    flat = {
        path: np.zeros(leaf.shape, np.float32)
        for path, leaf in rules.flatten(tracing.abstract_variables(model, 32)).items()
    }
    converted, output = tmp_path / "c.safetensors", tmp_path / "e.safetensors"
    says = {
        "format": "tljax",
        "model": "resnet18",
        "preprocessing": preprocessing_to_json(Preprocessing(64, (0.4,) * 3, (0.2,) * 3)),
        "origin": entry.name,
        "family": "torchvision ResNet",
    }
    save_file(flat, converted, says)
    argv = ("--model", "resnet18", "--format", "torchvision", "--output", output)
    assert run_quietly("export", "--init_from", converted, *argv) == 0
    card = output.with_suffix(".md").read_text()
    assert entry.name in card
    assert f"| licence | {entry.licence} |" in card
    assert "torchvision.models.resnet18(num_classes=3)" in card
    assert "| mean | 0.4 0.4 0.4 |" in card


@pytest.mark.skipif(not os.environ.get("TLJAX_CHECKPOINTS"), reason="TLJAX_CHECKPOINTS is not set")
def test_dinov2_to_our_names_and_back(tmp_path):
    source = Path(os.environ["TLJAX_CHECKPOINTS"]) / "dinov2_small_hf.safetensors"
    name, ours = "vit_small_patch14_dinov2", tmp_path / "ours.safetensors"
    assert run_quietly("convert", source, "--model", name, "--output", ours) == 0
    back = rules.unconvert(HF_DINOV2, registry.create(name, 0), load_file(ours))
    tensors = load_file(source)
    assert back.keys() == tensors.keys()
    assert all(back[key].tobytes() == tensors[key].tobytes() for key in tensors)
    argv = ("--model", name, "--format", "timm", "--output", tmp_path / "timm.safetensors")
    assert run_quietly("export", "--init_from", ours, *argv) == 0
    assert "num_classes=0, img_size=518)" in (tmp_path / "timm.md").read_text()


# --- what PyTorch needs to build the network ----------------------------------------------------


def lines(name, format="timm", num_classes=5, channels=3, last_group=None):
    model = registry.create(name, num_classes)
    if last_group is not None:
        model = registry.truncate(name, model, last_group)
    preprocessing = registry.spec(name).preprocessing.for_channels(channels)
    pretrained = weights.PretrainedWeights({}, num_classes, TLJAX, "x")
    made = constructor(Export(name, model, pretrained, preprocessing), format)
    return made and made[made.index("") + 1 :]


def test_constructors():
    """One model of each kind; tests/parity/round_trip.py builds all of them."""
    assert lines("resnet50") == ["model = timm.create_model('resnet50', num_classes=5)"]
    assert lines("resnet50", "torchvision") == [
        "model = torchvision.models.resnet50(num_classes=5)"
    ]
    assert lines("resnet50", "torchvision", num_classes=0) == [
        "model = torchvision.models.resnet50()",
        "model.fc = torch.nn.Identity()",
    ]
    assert "in_chans=1" in lines("resnet50", channels=1)[0]
    assert lines("resnet50", "torchvision", channels=1) is None
    assert "layers=(3, 4, 6, 1)" in lines("resnet50", last_group="layer4_0")[0]
    assert lines("resnet50", last_group="layer3_0") is None
    assert lines("resnet10_32", "torchvision") is None
    assert "resnetv2_50x1_bit" in lines("resnetv2_50x1_bit")[0]
    assert "BasicBlock(16, 16)" in lines("resnet10_32")[-1]
    assert lines("vit_tiny_patch16_224", last_group="block8") == [
        "model = timm.create_model('vit_tiny_patch16_224', num_classes=5, img_size=224, depth=9)"
    ]
    assert "patch_size=4, embed_dim=64, num_heads=4, depth=4" in lines("vit_micro_patch4_32")[0]


def test_a_network_that_the_library_cannot_build_is_exported_with_a_card_that_says_so(tmp_path):
    source, output = tmp_path / "torch.safetensors", tmp_path / "e.safetensors"
    save_file(torch_tensors("resnet10_32"), source)
    argv = ("--model", "resnet10_32", "--format", "torchvision", "--output", output)
    assert run_quietly("export", "--init_from", source, *argv) == 0
    assert "torchvision has no function that builds this network" in (tmp_path / "e.md").read_text()


def test_a_vit_of_another_image_size_is_built_for_the_size_of_its_positions(tmp_path):
    tensors = torch_tensors("vit_micro_patch4_32")
    tensors["pos_embed"] = np.zeros((1, 1 + 36, 64), np.float32)
    source, output = tmp_path / "torch.safetensors", tmp_path / "e.safetensors"
    save_file(tensors, source)
    argv = ("--model", "vit_micro_patch4_32", "--format", "timm", "--output", output)
    assert run_quietly("export", "--init_from", source, *argv) == 0
    assert "img_size=24" in (tmp_path / "e.md").read_text()
    assert weights.find_preprocessing(str(output)).image_size == 24


@pytest.mark.parametrize("fields", [{"pooling": "mean"}, {"layer_norm_eps": 1e-5}])
def test_a_network_that_pytorch_computes_otherwise_is_refused(fields):
    with pytest.raises(InputError, match="no network of PyTorch"):
        family_of("timm", "x", registry.create("vit_micro_patch4_32", 3, **fields))


# --- bad input ----------------------------------------------------------------------------------

EXPORT = ["export", "--format", "timm", "--output", "{tmp}/out/e.safetensors"]
CONVERT = ["convert", "{tmp}/torch.safetensors", "--output", "{tmp}/out/c.safetensors"]
FILE = ["--init_from", "{tmp}/torch.safetensors"]
BAD = {
    "neither workdir nor file": (EXPORT, "give one"),
    "both": ([*EXPORT, *FILE, "--model", "resnet10_32", "--workdir", "{tmp}"], "give one"),
    "file without model": ([*EXPORT, *FILE], "--model names the model of the weights"),
    "workdir with model": ([*EXPORT, "--workdir", "{tmp}", "--model", "resnet50"], "give both"),
    "no workdir": ([*EXPORT, "--workdir", "{tmp}"], "not a workdir"),
    "folder as file": (
        [*EXPORT, "--init_from", "{tmp}", "--model", "resnet10_32"],
        "holds 2 weights files (bad.safetensors, torch.safetensors)",
    ),
    "workdir as file": (
        [*EXPORT, "--init_from", "{tmp}/run", "--model", "resnet10_32"],
        "export its run with --workdir",
    ),
    "a network of a workdir": ([*EXPORT, "--workdir", "{tmp}", "--init_key", "ema"], "give both"),
    "no such format": (
        [*EXPORT, *FILE, "--model", "resnet10_32", "--format", "tim"],
        "did you mean 'timm'?",
    ),
    "a ViT for torchvision": (
        [*EXPORT, *FILE, "--model", "vit_micro_patch4_32", "--format", "torchvision"],
        "use --format timm",
    ),
    "Keras's network": ([*EXPORT, *FILE, "--model", "keras_resnet50"], "no network of PyTorch"),
    "export to another kind of file": (
        [*EXPORT, *FILE, "--model", "resnet10_32", "--output", "{tmp}/out/e.pth"],
        "does not end in .safetensors",
    ),
    "export into no folder": (
        [*EXPORT, *FILE, "--model", "resnet10_32", "--output", "{tmp}/no/e.safetensors"],
        "make it first",
    ),
    "export of another model": ([*EXPORT, *FILE, "--model", "resnet18"], "does not fit"),
    "unknown model": ([*CONVERT, "--model", "resnet10_23"], "did you mean 'resnet10_32'?"),
    "another model": ([*CONVERT, "--model", "resnet18"], "does not fit"),
    "no source": (
        ["convert", "{tmp}/nope.safetensors", *CONVERT[2:], "--model", "resnet10_32"],
        "nope.safetensors",
    ),
    "damaged source": (
        ["convert", "{tmp}/bad.safetensors", *CONVERT[2:], "--model", "resnet10_32"],
        "bad.safetensors",
    ),
    "convert to /proc": (
        [*CONVERT[:2], "--output", "/proc/c.safetensors", "--model", "resnet10_32"],
        "cannot write to",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_no_file(case, tmp_path, capsys):
    words, sentence = BAD[case]
    (tmp_path / "out").mkdir()
    save_file(torch_tensors("resnet10_32"), tmp_path / "torch.safetensors")
    whole = (tmp_path / "torch.safetensors").read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config_lib.base().to_json())
    code, out, err = run(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("tljax: ")
    assert sentence in err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_part_of_a_network_is_not_converted(tmp_path):
    """The converted file could not be read by the network's name."""
    model = registry.truncate("resnet10_32", registry.create("resnet10_32", 3), "layer2_0")
    abstract = tracing.abstract_variables(model, 32)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    part = weights.from_variables(zeros, "run")
    path, preprocessing = tmp_path / "c.safetensors", registry.spec("resnet10_32").preprocessing
    with pytest.raises(InputError, match="only a part of a resnet10_32"):
        save_converted(part, "resnet10_32", preprocessing, path)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_run_on_numbers_predicts_in_units(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{1000 + 7 * number}" for number in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,age", *rows]))
    config = config_lib.base()
    config.update(
        {
            "data": f"csv:{tmp_path / 't.csv'}?numbers=age",
            "model": "vit_micro_patch4_32",
            "steps": 1,
        }
    )
    config.update({"image_size": 16, "scenario": "from_scratch", "batch_size": 4})
    experiment.run(config, tmp_path / "run", progress=False)
    file = tmp_path / "c.safetensors"
    assert (
        run_quietly("convert", tmp_path / "run", "--model", "vit_micro_patch4_32", "--output", file)
        == 0
    )
    head, read = best_variables(tmp_path / "run")["params"]["head"], load_file(file)
    (mean,), (deviation,) = json.loads((tmp_path / "run" / "classes.json").read_text())["scale"]
    np.testing.assert_allclose(read["head/kernel"], head["kernel"] * deviation, rtol=1e-5)
    np.testing.assert_allclose(read["head/bias"], head["bias"] * deviation + mean, rtol=1e-5)
    config.update({"scenario": "fine_tune", "init_from": str(file), "head_init": "pretrained"})
    with pytest.raises(InputError, match="give the run's workdir instead"):
        experiment.run(config, tmp_path / "kept", progress=False)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_converted_file_is_resampled_as_its_source_was(tmp_path):
    model = tljax.create("vit_micro_patch4_32", 5)
    variables = tljax.models.init(model, jax.random.key(0), 32)
    flat = rules.flatten(variables)
    source, converted = tmp_path / "google.npz", tmp_path / "ours.safetensors"
    np.savez(source, **rules.unconvert(GOOGLE_VIT, model, flat))
    argv = ["convert", str(source), "--model", "vit_micro_patch4_32", "--output", str(converted)]
    assert cli.main(argv) == 0
    expected, found = (
        tljax.load("vit_micro_patch4_32", path, num_classes=0, image_size=48)[1]["params"]["embed"]
        for path in (source, converted)
    )
    assert np.array_equal(found["pos_embed"], expected["pos_embed"])
