"""`tljax rank`: which source models are meant, their scores on a target, and the choice."""

import json
import shlex
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

import tljax
from tests.reference_weights import draw_file
from tests.test_cli import run
from tljax import data as data_lib
from tljax.advice.ranking import IMAGES, Ranking, Scored, choose_images, rank
from tljax.advice.source_choice import choose, describe
from tljax.advice.sources import Candidate, find_candidates, load_network
from tljax.advice.transferability import leep, logme
from tljax.commands.rank import print_ranking
from tljax.data import ArraySource, Dataset
from tljax.errors import InputError
from tljax.files import cache_folder
from tljax.frozen.linear_head import solve_head
from tljax.weights import zoo

VIT, RESNET = "vit_micro_patch4_32", "resnet10_32"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Drawn weights of two networks, in tljax's own format."""
    folder = tmp_path_factory.mktemp("files")
    return {name: draw_file(folder / f"{name}.safetensors", name) for name in (VIT, RESNET)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes; its test images cannot be read."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 200, (40, 48, 3)) + 40 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / "train" / name / f"{i}.png")
        (root / "test" / name / "0.png").write_bytes(b"no image")
    return root


# --- names --------------------------------------------------------------------------------------


def test_models_are_named_in_several_ways(files, tmp_path, caplog):
    known = zoo.entries()
    resnets = [name for name in known if name.startswith("resnet50.")]
    assert len(resnets) > 1
    odd = tmp_path / "a,b=c.safetensors"
    odd.write_bytes(files[VIT].read_bytes())
    words = [f"resnet50.*,{resnets[0]}", f" {RESNET}={files[RESNET]},{VIT}=random", str(odd)]
    found = find_candidates(words)
    assert [(one.name, one.model, one.init_from, one.top1) for one in found] == [
        *((name, "resnet50", name, known[name].top1) for name in resnets),
        (f"{RESNET}={files[RESNET]}", RESNET, str(files[RESNET]), None),
        (f"{VIT}=random", VIT, None, None),
        (str(odd), VIT, str(odd), None),
    ]
    assert f"1 of {len(resnets) + 4} models are named before" in caplog.text
    assert find_candidates(["RESNET50.*"]) == find_candidates(resnets)
    assert find_candidates([f"resnet50={resnets[0]}"]) == find_candidates([resnets[0]])


def test_a_workdir_says_its_model(tiny_config, tmp_path):
    config = tiny_config(steps=2, eval_every=2)
    tljax.experiment.run(config, tmp_path)
    (found,) = find_candidates([str(tmp_path)])
    assert found == Candidate(str(tmp_path), RESNET, str(tmp_path), "layer1_0")
    assert find_candidates([f"{RESNET}={tmp_path}"]) == [found]
    network = load_network(found, 64)
    assert network.preprocessing.image_size == 64
    assert network.head[0].shape == (16, 10)
    assert network.parameters == sum(
        leaf.size
        for name, tree in network.variables["params"].items()
        if name != "head"
        for leaf in jax.tree.leaves(tree)
    )
    with pytest.raises(InputError, match=f"holds a {RESNET}, but model is {VIT}"):
        find_candidates([f"{VIT}={tmp_path}"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("resnet50.a1_in1", r"no source model 'resnet50.a1_in1' \(did you mean 'resnet50.a1_in1k'"),
        ("resnet50", "'resnet50' is a model without weights; name weights of it, e.g. "),
        (RESNET, f"write {RESNET}=FILE"),
        ("resnet51.*", "no pretrained weights have a name like 'resnet51.*'"),
        ("resnet51=x.pth", r"no model 'resnet51' \(did you mean 'resnet"),
        ("resnet50=x.pth", "no weights 'x.pth' for resnet50"),
        ("resnet18=resnet50.a1_in1k", "holds a resnet50, but model is resnet18"),
        (
            "https://host/x.pth?key=SECRET",
            r"address 'https://host/x.pth\?\*\*\*' does not say.*MODEL=ADDRESS",
        ),
        (" , ", "--models names no model"),
    ],
)
def test_names_that_stand_for_nothing(word, message):
    with pytest.raises(InputError, match=message):
        find_candidates([word])


def test_a_file_of_other_software_needs_its_model(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="does not say which model it holds; write MODEL="):
        find_candidates([str(file)])


# --- images -------------------------------------------------------------------------------------


def dataset(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    source = ArraySource(np.zeros((len(labels), 4, 4, 3), np.uint8), labels)
    return Dataset("made", tuple(f"class {i}" for i in range(len(counts))), source)


def test_images_are_drawn_by_class_and_two_of_each_at_least():
    whole = dataset([600, 290, 8, 2])
    few = choose_images(whole, "made", 100, 0)
    counts = np.bincount(few.labels)
    assert counts.sum() == 100
    assert counts[2:].tolist() == [2, 2]
    assert abs(counts[0] - 64) <= 2
    assert choose_images(whole, "made", IMAGES, 0) is whole.train
    assert len(choose_images(whole, "made", 8, 0)) == 8


@pytest.mark.parametrize(
    ("counts", "most", "message"),
    [
        ([9], 10, "are of the class 'class 0'"),
        ([0, 9], 10, "are of the class 'class 1'"),
        ([4, 1, 3, 1], 10, r"2 of 4 classes of 'made' .*'class 1'.*cannot hold out"),
        ([9, 9, 9], 5, "--images is 5, but 'made' has 3 classes.*set it to 6 or more"),
        ([9, 9], -1, "--images is -1"),
    ],
)
def test_targets_that_cannot_be_cross_validated(counts, most, message):
    with pytest.raises(InputError, match=message):
        choose_images(dataset(counts), "made", most, 0)


def test_several_targets_are_refused():
    both = replace(dataset([4, 4]), parts=(dataset([4]), dataset([4])))
    with pytest.raises(InputError, match=r"several data sets, .*; give one data set"):
        choose_images(both, "a,b", 10, 0)


# --- the choice ---------------------------------------------------------------------------------


def scored(name, right, *, top1=None, parameters=100, **scores):
    candidate = Candidate(name, RESNET, None, top1=top1)
    right = np.arange(1000) < right
    scores = {"probe": right.mean(), **scores}
    return Scored(candidate, parameters, 32, 8, 0.1, 1.0, 2.0, scores, right)


def names_to_try(*models):
    choice = choose(Ranking("made", 1000, 1000, 3, models))
    return [model.candidate.name for model in choice.to_try], " ".join(describe(choice))


def test_the_best_of_the_prior_and_of_the_probe_are_tried():
    a, b = scored("a", 700, top1=80.4), scored("b", 800, top1=79.0)
    tried, said = names_to_try(b, a, scored("c", 750))
    assert tried == ["a", "b"]
    assert "80.4 % on ImageNet" in said
    assert "80.0 ± 1.3 % by cross-validated linear probes; 70.0 ± 1.4 % for the other" in said
    assert "Of 1 of the models no published accuracy is known" in said
    assert "tie" not in said


def test_prior_and_probe_may_agree_and_the_prior_may_say_nothing():
    tried, said = names_to_try(scored("a", 900, top1=80.4), scored("b", 800, top1=79.0))
    assert tried == ["a"]
    assert "choose the same model: a" in said
    tried, said = names_to_try(scored("a", 900), scored("b", 950))
    assert tried == ["b"]
    assert "No published accuracy is known" in said
    assert names_to_try(scored("only", 500))[0] == ["only"]


def test_of_probes_that_tie_the_other_scores_choose_and_then_the_size():
    large, small = scored("large", 800, parameters=300), scored("small", 800, parameters=100)
    hardly_better = scored("hardly", 801, parameters=400)
    tried, said = names_to_try(large, small, hardly_better, scored("bad", 700, parameters=1))
    assert tried == ["small"]
    assert "large, small and hardly tie" in said
    assert "small has the fewest parameters" in said
    preferred = scored("preferred", 800, parameters=500, knn=0.5)
    others = [scored("large", 800, parameters=300, knn=0.4), scored("small", 801, knn=0.3)]
    tried, said = names_to_try(*others, preferred)
    assert tried == ["preferred"]
    assert "preferred is ahead of them in the mean of the other scores' ranks" in said
    clearly_better = scored("clearly", 850, parameters=400)
    assert names_to_try(large, small, clearly_better)[0] == ["clearly"]


def test_the_reason_is_that_of_the_models_that_are_level():
    first, second = (scored(name, right, knn=0.5) for name, right in (("a", 801), ("b", 800)))
    tiny = scored("tiny", 800, parameters=10, knn=0.3)
    tried, said = names_to_try(first, second, tiny)
    assert tried == ["a"]
    assert "that lead in the mean of the other scores' ranks, a has the best probe among" in said
    assert "fewest parameters" not in said
    smaller = scored("c", 800, parameters=50, knn=0.5)
    tried, said = names_to_try(first, second, tiny, smaller)
    assert tried == ["c"]
    assert "that lead in the mean of the other scores' ranks, c has the fewest parameters." in said


def test_the_printed_commands_train_what_was_ranked(capsys):
    whole, cut = scored("whole", 900), scored("cut", 500, top1=80.0)
    own = replace(cut.candidate, init_from="runs/my letters", last_group="layer1_0")
    ranking = Ranking("tfds:cats", 1000, 1000, 3, (whole, replace(cut, candidate=own)))
    print_ranking(ranking, choose(ranking), {"image_size": 64, "data_dir": "/data sets"})
    lines = capsys.readouterr().out.splitlines()
    found = [shlex.split(line) for line in lines if line.startswith("    tljax train")]
    shared = ["--config.data=tfds:cats", f"--config.model={RESNET}"]
    size = ["--config.image_size=64", "--config.data_dir=/data sets"]
    source = ["--config.init_from=runs/my letters", "--config.last_group=layer1_0"]
    assert [words[6:] for words in found] == [[*shared, *source, *size], [*shared, *size]]


def four_models():
    models = (
        scored("a", 900, top1=70, knn=0.1, leep=-1.0),
        scored("b", 800, top1=80, knn=0.2),
        scored("c", 700, top1=90, knn=0.3, leep=-2.0),
        scored("d", 700, knn=0.4),
    )
    return Ranking("made", 1000, 5000, 3, models)


def test_what_is_printed(capsys):
    print_ranking(four_models(), choose(four_models()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1,000 of 5,000 training images of made, 3 classes")
    rows = [line.split() for line in lines]
    assert ["a", "90.0", "(1)", "10.0", "(4)", "-1.00", "(1)", "2.5"] in rows
    assert ["d", "70.0", "(3)", "40.0", "(1)", "2.0"] in rows
    assert ["top-1", "-1.00", "1.00"] in rows, "agreement with probe and k-NN"
    assert any(line.startswith("Fine-tune two models") for line in lines)
    assert sum("--config.data=made" in line for line in lines) == 2


def test_ranks_and_agreement():
    ranking = four_models()
    ranks = ranking.ranks()
    assert [row["probe"] for row in ranks] == [1, 2, 3, 3]
    assert [row["knn"] for row in ranks] == [4, 3, 2, 1]
    assert [row.get("leep") for row in ranks] == [1, None, 2, None]
    assert [row["parameters"] for row in ranks] == [1, 1, 1, 1]
    assert ranking.mean_ranks() == [2.5, 2.5, 2.5, 2]
    agreement = ranking.agreement()
    assert agreement["top1"]["probe"] == pytest.approx(-1)
    assert agreement["top1"]["knn"] == agreement["knn"]["top1"] == pytest.approx(1)
    assert "leep" not in agreement, "it is known of two models"
    assert "parameters" not in agreement, "it is the same for all"
    assert ranking.cost() == {
        "images": 1000,
        "feature_seconds": 4.0,
        "score_seconds": 8.0,
        "gflops": pytest.approx(400),
    }


# --- the command --------------------------------------------------------------------------------


def kept_features():
    """When each file of kept features was written last."""
    return {path: path.stat().st_mtime_ns for path in cache_folder("features").rglob("*.npy")}


def test_models_are_ranked_on_training_images_and_their_features_are_kept(
    files, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # other tests keep features, too
    output = tmp_path / "ranking.json"
    words = [files[RESNET], f"{VIT}=random"]
    argv = ["rank", "--data", f"folder:{photos}", "--models", *words, "--output", output]
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert "24 training images" in out
    assert "2 of 2" in err
    assert f"--config.data=folder:{photos}" in out
    content = json.loads(output.read_text())
    assert [model["name"] for model in content["models"]] == [str(word) for word in words]
    first, drawn = content["models"]
    assert first["ranks"].keys() == {*first["scores"], "parameters"}
    assert "leep" in first["scores"]
    assert "leep" not in drawn["scores"]
    assert set(content["choice"]["try"]) <= {str(word) for word in words}
    assert content["cost"]["images"] == 24
    before = kept_features()
    assert len(before) == 4, "rows and checksums of two models"
    code, again, _ = run(capsys, *argv)
    assert code == 0
    assert again.splitlines()[1:6] == out.splitlines()[1:6]
    assert kept_features() == before

    model, variables, preprocessing = tljax.load(RESNET, str(files[RESNET]), num_classes=None)
    train = data_lib.load(f"folder:{photos}", val_fraction=0).train
    (batch,) = data_lib.eval_batches(train, preprocessing, batch_size=24)
    images = data_lib.normalise(batch["image"], preprocessing)
    features = np.asarray(tljax.features(model, variables, images))
    assert first["scores"]["logme"] == pytest.approx(logme(features, train.labels), abs=1e-3)
    logits = np.asarray(model.apply(variables, images, train=False))
    wanted = leep(np.exp(log_softmax(logits, axis=1)), train.labels)
    assert first["scores"]["leep"] == pytest.approx(wanted, abs=1e-3)
    solved = solve_head(features, train.labels, 2)
    assert abs(first["scores"]["probe"] - np.mean(solved.out_of_fold == train.labels)) <= 1 / 24


def test_bad_input_is_one_sentence_and_nothing_is_written(
    files, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TLJAX_OFFLINE", "1")
    output = tmp_path / "ranking.json"
    target = ["--data", f"folder:{photos}", "--output", output]
    for words, message in (
        (["--models", "resnet50.a1_in1"], "did you mean"),
        (["--models", f"{VIT}={files[RESNET]}"], f"'{VIT}={files[RESNET]}'"),
        (["--models", f"{RESNET}={files[RESNET]}", "resnet18.tv_in1k"], "'resnet18.tv_in1k'"),
        (["--models", str(files[VIT]), "--image_size", "30"], "try 32"),
        (["--models", str(files[VIT]), "--image_size", "0"], "--image_size is 0"),
        (["--models", str(files[VIT]), "--images", "3"], "--images is 3"),
        (["--models", str(files[VIT]), "--output", "x.csv"], "does not end in .json"),
    ):
        code, out, err = run(capsys, "rank", *target, *words)
        assert (code, out) == (2, ""), words
        assert message in err.splitlines()[-1], err
        assert not output.exists()


def test_one_model_can_be_ranked_on_some_of_the_images(photos):
    ranking = rank(f"folder:{photos}", find_candidates([f"{VIT}=random"]), images=10)
    assert (ranking.images, ranking.available) == (10, 24)
    assert ranking.mean_ranks() == [1.0]
    assert ranking.agreement() == {}
