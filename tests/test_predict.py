"""`tljax predict`: its answers, and what it refuses before it predicts."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.test_cli import run
from tests.test_export import torch_tensors
from tljax import config as config_lib
from tljax import data as data_lib
from tljax import experiment
from tljax.data.listing import find_images


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder of five classes, with names that CSV has to quote."""
    base = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("a, b", 'c "d"', "ö", "dark", "z")):
        folder = base / "photos" / name
        folder.mkdir(parents=True)
        for i in range(13 + 4 * label):
            pixels = rng.integers(0, 160, (36, 44, 3)) + 20 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    save_file(torch_tensors("resnet10_32"), base / "source.safetensors")
    config = config_lib.base()
    config.augment = "crop_flip"
    config.update(
        {
            "data": f"folder:{base / 'photos'}",
            "scenario": "feature_extraction",
            "init_from": str(base / "source.safetensors"),
            "steps": 12,
            "batch_size": 8,
            "eval_every": 6,
            "lr": 0.05,
        }
    )
    experiment.run(config, base / "run")
    return base


def read(path):
    with path.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def test_the_probabilities_agree_with_evaluate(trained, tmp_path, capsys):
    test = data_lib.load(f"folder:{trained / 'photos'}").test
    files = [test.source.files[i] for i in test.indices]
    output = tmp_path / "p.csv"
    code, out, err = run(
        capsys, "predict", "--workdir", trained / "run", *files, "--output", output
    )
    assert code == 0, err
    assert f"{len(files)} images" in out
    rows = read(output)
    names = experiment.build(experiment.read_config(trained / "run")).class_names
    assert list(rows[0]) == ["file", "prediction", "probability", *names]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    right = [row["prediction"] == file.parent.name for row, file in zip(rows, files, strict=True)]
    result = json.loads((trained / "run" / "result.json").read_text())
    assert np.mean(right) == pytest.approx(result["test_accuracy"])
    assert 0 < np.mean(right) < 1, "or this tests nothing"
    probabilities = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert [row["prediction"] for row in rows] == [names[i] for i in probabilities.argmax(1)]
    assert [float(row["probability"]) for row in rows] == list(probabilities.max(1))
    truth = [names.index(file.parent.name) for file in files]
    loss = -np.log(probabilities[np.arange(len(files)), truth]).mean()
    assert loss == pytest.approx(result["test_loss"], rel=1e-4)


def test_folders_are_searched_to_the_bottom_and_no_image_is_answered_twice(
    trained, tmp_path, capsys
):
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    image = Image.new("RGB", (50, 30), (9, 99, 9))
    for name in ("b.png", "deep/er/a.JPG", "deep/c.webp", ".hidden/x.png", ".y.png"):
        image.save(root / name)
    image.save(root / "deep" / "er" / "d", "TIFF")
    (root / "notes.txt").write_text("no image")
    (root / "deep" / "drawing.svg").write_text("<svg/>")
    (root / "Thumbs.db").write_text("no image")
    output = tmp_path / "p.csv"
    argv = ["predict", "--workdir", trained / "run", root / "deep/c.webp", root]
    code, _, err = run(capsys, *argv, "--output", output)
    assert code == 0
    assert err == (
        f"tljax: warning: left out 2 files in {root} that are not JPEG, PNG, WebP, BMP, TIFF, GIF,"
        " PPM, JPEG 2000 or AVIF images: deep/drawing.svg, notes.txt\n"
    )
    order = ["deep/c.webp", "b.png", "deep/er/a.JPG", "deep/er/d"]
    assert find_images(root) == sorted(root / name for name in order)
    assert [row["file"] for row in read(output)] == [str(root / name) for name in order]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert [str(root / name) in out for name in order] == [True] * 4
    assert f"{float(read(output)[0]['probability']):.4f}" in out


def test_deep_images_are_scaled_as_in_training(trained, tmp_path, capsys):
    pixels = np.random.default_rng(1).integers(0, 256, (36, 44))
    pixels[0, :2] = 0, 255
    files = [tmp_path / name for name in ("plain.png", "deep.png")]
    Image.fromarray(pixels.astype(np.uint8)).save(files[0])
    Image.fromarray((1000 + pixels).astype(np.uint16)).save(files[1])
    workdir = shutil.copytree(trained / "run", tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    assert config.pop("deep_images") == "full_range"  # and so it is in older runs, which lack it
    answers = []
    for field in ({"deep_images": "own_range"}, {}):
        (workdir / "config.json").write_text(json.dumps({**config, **field}))
        argv = ["predict", "--workdir", workdir, *files, "--output", tmp_path / "p.csv"]
        assert run(capsys, *argv)[0] == 0
        plain, deep = ({**row, "file": ""} for row in read(tmp_path / "p.csv"))
        answers.append(plain == deep)
    assert answers == [True, False]


def test_the_training_images_are_not_needed(trained, tmp_path, capsys):
    image = trained / "one.png"
    Image.new("RGB", (40, 40)).save(image)
    away = (trained / "photos").rename(trained / "elsewhere")
    try:
        code, _, err = run(capsys, "predict", "--workdir", trained / "run", image)
    finally:
        away.rename(trained / "photos")
    assert code == 0, err
