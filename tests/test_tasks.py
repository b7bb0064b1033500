"""Several tasks on one trunk: equal to separate heads, and every command knows the task."""

import json

import jax
import numpy as np
import optax
import pytest
from PIL import Image

import tljax
from tests.test_cli import run
from tests.tiny_networks import NETWORKS
from tljax import data as data_lib
from tljax import experiment
from tljax.config import base
from tljax.config import load as load_config
from tljax.data import kept
from tljax.data.datasets import split_spec
from tljax.errors import InputError
from tljax.runs.answers import read_answers
from tljax.training.loss.tasks import mask_other_tasks

SPEC = "embedded:digits,embedded:textures"


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A short run on both tasks."""
    config = base()
    config.update(
        {
            "data": SPEC,
            "scenario": "from_scratch",
            "last_group": "layer1_0",
            "image_size": 16,
            "train_size": 60,
            "steps": 12,
            "batch_size": 16,
            "eval_every": 6,
            "lr": 0.05,
            "augment": "none",
        }
    )
    workdir = tmp_path_factory.mktemp("joint") / "run"
    experiment.run(config, workdir)
    return workdir


def test_the_loss_and_its_gradient_are_those_of_separate_heads():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 7)).astype(np.float32)
    heads = [rng.normal(size=(7, classes)).astype(np.float32) for classes in (3, 5)]
    labels = np.concatenate([rng.integers(0, 3, 6), 3 + rng.integers(0, 5, 6)])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def together(head):
        return cross_entropy(mask_other_tasks(features @ head, labels, (3, 5)), labels).sum()

    def alone(heads):
        return (
            cross_entropy(features[:6] @ heads[0], labels[:6]).sum()
            + cross_entropy(features[6:] @ heads[1], labels[6:] - 3).sum()
        )

    loss, gradient = jax.value_and_grad(together)(np.concatenate(heads, axis=1))
    expected, gradients = jax.value_and_grad(alone)(heads)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.concatenate(gradients, axis=1), rtol=1e-5, atol=1e-6)


def test_joined_data_are_those_of_each_alone():
    both = data_lib.load(SPEC, train_size=40, seed=3)
    assert len(both.class_names) == 20
    first = 0
    for part in both.parts:
        alone = data_lib.load(part.name, train_size=40, seed=3)
        for split in ("train", "val", "test"):
            joined, own = getattr(both, split), getattr(alone, split)
            start = 0 if first == 0 else len(getattr(both.parts[0], split))
            for i in (0, len(own) - 1):
                example = joined[start + i]
                assert example["label"] == own[i]["label"] + first == joined.labels[start + i]
                assert np.array_equal(example["image"], own[i]["image"])
        first += part.num_classes
    other = data_lib.load(SPEC, train_size=40, seed=4)
    assert data_lib.fingerprint(both.train) != data_lib.fingerprint(other.train)


def test_commas_in_a_path_split_nothing():
    assert split_spec("folder:a,b,embedded:digits") == ["folder:a,b", "embedded:digits"]
    with pytest.raises(InputError, match="twice"):
        split_spec("folder:a,folder:a")


def test_tasks_that_do_not_fit_the_model_or_a_split_are_refused():
    model = NETWORKS["resnet"]
    labels = np.arange(20) % 10
    train, first, second = (
        data_lib.ArraySource(np.zeros((len(some), 16, 16), np.uint8), some)
        for some in (labels, labels[labels < 4], labels[labels >= 4])
    )

    def fit(sizes, *splits):
        options = {"tasks": dict(zip("ab", sizes, strict=True)), "steps": 1, "progress": False}
        return tljax.fit(model, None, tljax.from_scratch(model.groups), *splits, **options)

    with pytest.raises(InputError, match="the tasks have 7 classes in all, but the model has 10"):
        fit((3, 4), train, None)
    with pytest.raises(InputError, match="none of the 12 validation images is of task 'a'"):
        fit((4, 6), train, second)
    with pytest.raises(InputError, match="none of the 8 training images is of task 'b'"):
        fit((4, 6), first, None)
    assert fit((4, 6), train, None).summary["tasks"]["b"]["train_size"] == 12


def test_results_are_told_by_task(joint):
    result = json.loads((joint / "result.json").read_text())
    tasks = result["tasks"]
    assert list(tasks) == SPEC.split(",")
    sizes = [task["test_size"] for task in tasks.values()]
    assert sum(sizes) == result["test_size"]
    accuracies = [task["test_accuracy"] for task in tasks.values()]
    assert result["test_accuracy"] == pytest.approx(np.average(accuracies, weights=sizes))
    for name in tasks:
        alone = experiment.evaluate_trained(experiment.read_workdir(joint, name), None, "test")
        assert alone.evaluation.accuracy == pytest.approx(tasks[name]["test_accuracy"])
        assert alone.evaluation.loss == pytest.approx(tasks[name]["test_loss"], rel=1e-5)
        assert alone.naive["accuracy"] == tasks[name]["naive_accuracy"]


def test_answers_are_kept_and_agree_with_the_result(joint):
    answers = read_answers(joint)
    result = json.loads((joint / "result.json").read_text())
    assert np.mean(answers.labels == answers.predicted) == pytest.approx(result["test_accuracy"])
    np.testing.assert_allclose(answers.probabilities.astype(float).sum(1), 1, atol=4e-3)
    digits = answers.within(0, 10)
    assert len(digits) == result["tasks"]["embedded:digits"]["test_size"]
    assert digits.predicted.min() >= 0
    assert answers.probabilities[answers.labels < 10, 10:].max() == 0


def test_commands_ask_for_the_task_where_it_matters(joint, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    predict = ["predict", "--workdir", joint, tmp_path / "x.png"]
    code, _, err = run(capsys, *predict)
    assert code == 2
    assert "choose one with --task" in err
    code, out, _ = run(capsys, *predict, "--task", "embedded:textures")
    assert code == 0
    texts = data_lib.read_class_names("embedded:textures")
    assert any(name in out for name in texts)
    code, out, _ = run(capsys, "evaluate", "--workdir", joint)
    assert code == 0
    assert [line.count(name) for line, name in zip(out.splitlines(), SPEC.split(","), strict=True)]
    output = tmp_path / "w.safetensors"
    export = ["export", "--workdir", joint, "--format", "timm", "--output", output]
    code, _, err = run(capsys, *export)
    assert code == 2
    assert "--task" in err
    code, out, err = run(capsys, "evaluate", "--workdir", joint, "--data", "embedded:glyphs")
    assert code == 2
    assert "none of its tasks" in err


def test_images_of_one_task_that_train_another_are_counted(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    for task, turn in (("a", 1), ("b", 7)):
        rows = [f"{n * turn % 40}.png,{task}{n % 2}" for n in range(40)]
        (tmp_path / f"{task}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    joined = data_lib.load(f"csv:{tmp_path}/a.csv,csv:{tmp_path}/b.csv", val_fraction=0.2)
    described = kept.describe(joined)
    kept.warn_of_copies(joined, described)
    first, second = (part["splits"] for part in described)
    shared = {d for _, d, _ in first["test"]} & {d for _, d, _ in second["train"]}
    assert f"{len(shared)} of the {len(first['test'])} test images of csv" in caplog.text


def test_by_default_a_joint_run_ends_with_a_choice_on_the_line(joint, tmp_path):
    config = load_config("fine_tune", [f"--config.init_from={joint}"])
    config.update({"data": SPEC, "image_size": 16, "last_group": "layer1_0", "train_size": 60})
    config.update({"steps": 4, "trial_lr": (), "batch_size": 16, "augment": "none"})
    result = experiment.run(config, tmp_path / "run")
    assert "wise_ft" in result.summary
    assert set(result.summary["tasks"]) == set(SPEC.split(","))
