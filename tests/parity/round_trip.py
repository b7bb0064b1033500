"""Checks that exported networks, loaded into PyTorch, give the same logits.

    pip install '.[parity]' && python tests/parity/round_trip.py

Trains a few networks for three steps on digits, exports them, runs the Python of each model card,
and compares the logits. Then builds every model with its card's constructor, and compares names and
shapes of its tensors with those of an export.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from safetensors.numpy import save_file

from tests.reference_weights import draw_all
from tljax import cli, experiment, weights
from tljax import config as config_lib
from tljax import data as data_lib
from tljax.errors import InputError
from tljax.models import MODELS, registry, tracing
from tljax.weights import rules
from tljax.weights.export import FORMATS, family_of
from tljax.weights.families import TLJAX
from tljax.weights.model_card import Export, constructor

TOLERANCE = 1e-4  # relative to the largest logit
TRAINED = (
    ("resnet18", "torchvision", 64),
    ("resnet18", "timm", 64),
    ("resnet10_32", "timm", 32),
    ("vit_tiny_patch16_224", "timm", 64),
    ("vit_micro_patch4_32", "timm", 32),
)


def train(name: str, size: int, folder: Path) -> Path:
    workdir = folder / name
    if not workdir.exists():
        model = registry.create(name, 3)
        drawn = draw_all(model, size)  # BatchNorm statistics too, unlike a new network's
        tensors = rules.unconvert(family_of("timm", name, model), model, drawn)
        save_file(tensors, folder / f"{name}.safetensors")
        config = config_lib.base()
        config.augment = "crop_flip"
        config.update(
            {
                "data": "embedded:digits",
                "model": name,
                "init_from": str(folder / f"{name}.safetensors"),
                "scenario": "fine_tune",
                "head_init": "random",
                "image_size": size,
                "train_size": 32,
                "steps": 3,
                "batch_size": 8,
                "lr": 0.01,
            }
        )
        experiment.run(config, workdir)
    return workdir


def code_of(card: Path) -> str:
    return card.read_text().split("```python\n")[1].split("```")[0]


@torch.no_grad()
def difference(name: str, format: str, size: int, folder: Path) -> float:
    """The largest difference of a logit, relative to the largest logit."""
    workdir = train(name, size, folder)
    output = folder / f"{name}.{format}.safetensors"
    argv = ["export", "--workdir", str(workdir), "--format", format, "--output", str(output)]
    assert cli.main(argv) == 0
    scope: dict = {}
    exec(code_of(output.with_suffix(".md")).replace(output.name, str(output)), scope)

    trained = experiment.read_workdir(workdir)
    test = data_lib.load("embedded:digits").test
    preprocessing = trained.experiment.preprocessing
    batch = next(iter(data_lib.eval_batches(test, preprocessing, batch_size=16)))
    images = np.array(data_lib.normalise(batch["image"], preprocessing))
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(trained.experiment.model.apply(trained.variables, images))
    theirs = scope["model"](torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def misnamed(name: str, format: str) -> list[str]:
    """Tensors whose name or shape differs between an export and its card's network."""
    model = registry.create(name, 5)
    preprocessing = registry.spec(name).preprocessing
    shapes = rules.flatten(tracing.abstract_variables(model, preprocessing.image_size))
    flat = {path: np.zeros(leaf.shape, np.int8) for path, leaf in shapes.items()}
    given = rules.unconvert(family_of(format, name, model), model, flat)
    lines = constructor(
        Export(name, model, weights.PretrainedWeights({}, 5, TLJAX, "x"), preprocessing), format
    )
    if lines is None:
        print(f"{name}: no constructor in {format}")
        return []
    scope: dict = {}
    with torch.device("meta"):
        exec("\n".join(lines), scope)
    wanted = {
        key: tuple(tensor.shape)
        for key, tensor in scope["model"].state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    shaped = {key: array.shape for key, array in given.items()}
    return sorted(
        key for key in wanted.keys() | shaped.keys() if wanted.get(key) != shaped.get(key)
    )


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, format, size in TRAINED:
            relative = difference(name, format, size, Path(folder))
            failed |= not relative <= TOLERANCE
            print(
                f"{name} at {size} px in {format}: logits differ by {relative:.1e} of the largest"
            )
    for format in FORMATS:
        built, refused = 0, []
        for name in MODELS:
            try:
                wrong = misnamed(name, format)
            except InputError:
                refused.append(name)
                continue
            built += 1
            failed |= bool(wrong)
            if wrong:
                print(f"{name} in {format}: {len(wrong)} tensors differ, e.g. {wrong[:3]}")
        print(f"{built} models in {format} have the tensors of their cards' constructors;")
        print(f"  {len(refused)} cannot be exported so: {', '.join(refused)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
