"""What others get on the same folders: timm with scikit-learn, and a fine-tuning recipe of PyTorch.

    pip install -c constraints.txt '.[parity]'
    python experiments/defaults/peers.py sets --weights FILE --features features

FILE is DINOv2-small as `facebook/dinov2-small` names its weights. tljax is not used. Every finished
row is appended to peers.csv and is not repeated.

logistic  The class token after the final norm, as timm computes it at 98 px, standardised; then
          scikit-learn's LogisticRegressionCV, whose C 5 stratified folds of the training images
          choose. Features are kept as FEATURES/NETWORK/NAME_nN_sSEED.npz. Those of other networks
          that run.py --features put there are used, too.
recipe    The head starts from that logistic regression, and everything trains: 20 epochs of AdamW
          in batches of 32, 5e-4 at the head and .75 times that a block further down, 10 % warm-up,
          cosine, decay .05 except on biases and norms, gradients clipped at 1, random crops of half
          to all of the image, flips. All training images, the last weights.
"""

import argparse
import csv
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform
from timm.layers import resample_abs_pos_embed
from timm.optim import param_groups_layer_decay
from torchvision import transforms

HERE = Path(__file__).parent
SETS = ("elpv", "textiles", "mnist5k", "units", "terrain", "icons")
NETWORK, MODEL, IMAGE_SIZE = "dinov2", "vit_small_patch14_dinov2", 98
COLUMNS = ("network", "set", "n", "seed", "peer", "accuracy", "seconds")
STRENGTHS = np.logspace(-5, 2, 15)  # C of scikit-learn
FOLDS = 5
EPOCHS, BATCH, LR, LAYER_DECAY, WEIGHT_DECAY = 20, 32, 5e-4, 0.75, 0.05
WARMUP, CLIP, CROP_AREA = 0.1, 1.0, (0.5, 1.0)


class Target(NamedTuple):
    set: str
    n: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}_n{self.n}_s{self.seed}"

    def folder(self, sets: Path) -> Path:
        return sets / self.set / f"n{self.n}_s{self.seed}"


class Row(NamedTuple):
    """What identifies a row of peers.csv."""

    network: str
    target: Target
    peer: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder that image_sets.py made")
    parser.add_argument("--weights", type=Path, required=True, help="of DINOv2-small, safetensors")
    parser.add_argument("--features", type=Path, required=True, help="folder for features")
    parser.add_argument("--peers", nargs="+", default=["logistic", "recipe"], help="default: both")
    parser.add_argument("--only", nargs="+", default=SETS, help="sets; default: all")
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 400])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "peers.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    targets = [
        target
        for n, seed, name in itertools.product(args.sizes, args.seeds, args.only)
        if (target := Target(name, n, seed)).folder(args.sets).is_dir()
    ]
    folder = args.features / NETWORK
    for name in args.only:
        save_features(args.sets, [t for t in targets if t.set == name], args.weights, folder)
    if "logistic" in args.peers:
        for file in sorted(args.features.glob("*/*.npz")):
            row = Row(file.parent.name, _target(file), "logistic")
            add_row(args.results, row, lambda file=file: logistic_regression(file).accuracy)
    if "recipe" in args.peers:
        for target in targets:
            row = Row(NETWORK, target, "recipe")
            given = target, args.sets, args.weights, folder
            add_row(args.results, row, lambda given=given: fine_tune(*given))


def _target(file: Path) -> Target:
    name, n, seed = file.stem.rsplit("_", 2)
    return Target(name, int(n[1:]), int(seed[1:]))


# ----------------------------------------------------------------------------------- the rows


def add_row(path: Path, row: Row, measure: Callable[[], float]) -> None:
    """Measures an accuracy and appends it with the time it took, unless the row is there."""
    if row in read_rows(path):
        return
    began, new = time.monotonic(), not path.exists()
    accuracy = round(measure(), 6)
    values = {"network": row.network, **row.target._asdict(), "peer": row.peer}
    values |= {"accuracy": accuracy, "seconds": round(time.monotonic() - began, 1)}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(values)
    print(*values.values(), flush=True)


def read_rows(path: Path) -> set[Row]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {
            Row(
                line["network"],
                Target(line["set"], int(line["n"]), int(line["seed"])),
                line["peer"],
            )
            for line in csv.DictReader(file)
        }


# --------------------------------------------------------------------------------- the network


def load_network(weights: Path, classes: int) -> torch.nn.Module:
    """DINOv2-small of timm at 98 px, with a head for so many classes."""
    network = timm.create_model(MODEL, img_size=IMAGE_SIZE, num_classes=classes)
    state = timm_names(load_file(weights))
    grid = network.patch_embed.grid_size
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=1)
    left = network.load_state_dict(state, strict=False)
    if left.unexpected_keys or set(left.missing_keys) - {"head.weight", "head.bias"}:
        raise SystemExit(f"{weights} is not DINOv2-small: {left}")
    return network


def timm_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that transformers' Dinov2Model names, under timm's names."""
    renamed = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
    }
    for part in ("weight", "bias"):
        patches = f"embeddings.patch_embeddings.projection.{part}"
        renamed[f"patch_embed.proj.{part}"] = state[patches]
        renamed[f"norm.{part}"] = state[f"layernorm.{part}"]
    for block in range(12):
        theirs, ours = f"encoder.layer.{block}", f"blocks.{block}"
        for number in (1, 2):
            renamed[f"{ours}.ls{number}.gamma"] = state[f"{theirs}.layer_scale{number}.lambda1"]
        for part in ("weight", "bias"):
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                renamed[f"{ours}.{name}.{part}"] = state[f"{theirs}.{name}.{part}"]
            attention = f"{theirs}.attention.attention"
            merged = [state[f"{attention}.{name}.{part}"] for name in ("query", "key", "value")]
            renamed[f"{ours}.attn.qkv.{part}"] = torch.cat(merged)
            output = f"{theirs}.attention.output.dense.{part}"
            renamed[f"{ours}.attn.proj.{part}"] = state[output]
    return renamed


def transform_of(network: torch.nn.Module) -> transforms.Compose:
    """How timm prepares images for the network in evaluation."""
    described = timm.data.resolve_data_config(model=network)
    return create_transform(**{**described, "input_size": (3, IMAGE_SIZE, IMAGE_SIZE)})


def listed(folder: Path) -> tuple[list[Path], np.ndarray]:
    """The files in the class folders of a folder, and their labels."""
    classes = sorted(path.name for path in folder.iterdir())
    files = sorted(folder.glob("*/*.png"))
    return files, np.array([classes.index(file.parent.name) for file in files])


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


# -------------------------------------------------------------------------- logistic regression


def save_features(sets: Path, targets: Iterable[Target], weights: Path, folder: Path) -> None:
    """Saves the class tokens of the targets of one set; an image of several is computed once."""
    wanted = [target for target in targets if not (folder / f"{target.name}.npz").exists()]
    if not wanted:
        return
    network = load_network(weights, 0).eval()
    transform, known = transform_of(network), {}
    for target in wanted:
        kept = {}
        for part in ("train", "test"):
            files, kept[f"{part}_labels"] = listed(target.folder(sets) / part)
            names = [(part, file.parent.name, file.name) for file in files]
            new = [i for i, name in enumerate(names) if name not in known]
            for batch in (new[at : at + 64] for at in range(0, len(new), 64)):
                images = torch.stack([transform(opened(files[i])) for i in batch])
                with torch.inference_mode():
                    tokens = network.forward_features(images)[:, 0].numpy()
                known.update(zip([names[i] for i in batch], tokens, strict=True))
            kept[part] = np.stack([known[name] for name in names])
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{target.name}.npz", **kept)
        print(f"features of {target.name}", flush=True)


class Solved(NamedTuple):
    accuracy: float
    weight: np.ndarray  # (classes, d), of features that are not standardised
    bias: np.ndarray


def logistic_regression(file: Path) -> Solved:
    """Solves the probe on the saved features of a target, and tests it."""
    saved = np.load(file)
    scaler = StandardScaler().fit(saved["train"])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = LogisticRegressionCV(
        Cs=STRENGTHS,
        cv=folds,
        l1_ratios=(0,),
        max_iter=5000,
        scoring="accuracy",
        use_legacy_attributes=False,
    )
    model.fit(scaler.transform(saved["train"]), saved["train_labels"])
    accuracy = model.score(scaler.transform(saved["test"]), saved["test_labels"])
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # of two classes: the second one's logit
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Solved(float(accuracy), weight, bias)


# ------------------------------------------------------------------------------------ the recipe


def fine_tune(target: Target, sets: Path, weights: Path, features: Path) -> float:
    """Trains with the recipe, and returns the test accuracy of the last weights."""
    random.seed(target.seed)
    torch.manual_seed(target.seed)
    files, labels = listed(target.folder(sets) / "train")
    network = load_network(weights, max(labels) + 1)
    solved = logistic_regression(features / f"{target.name}.npz")
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(solved.weight))
        network.head.bias.copy_(torch.from_numpy(solved.bias))
    _train(network, [opened(file) for file in files], torch.from_numpy(labels))
    return _test(network, *listed(target.folder(sets) / "test"))


def _train(network: torch.nn.Module, images: list[Image.Image], labels: torch.Tensor) -> None:
    normalise = transform_of(network).transforms[-1]
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                IMAGE_SIZE, CROP_AREA, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalise,
        ]
    )
    groups = param_groups_layer_decay(
        network, WEIGHT_DECAY, network.no_weight_decay(), layer_decay=LAYER_DECAY
    )
    optimizer = torch.optim.AdamW(groups, lr=LR)
    total, step = EPOCHS * math.ceil(len(images) / BATCH), 0
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            factor = schedule(step, total)
            for group in optimizer.param_groups:
                group["lr"] = LR * group["lr_scale"] * factor
            batch = torch.stack([augment(images[row]) for row in rows.tolist()])
            loss = torch.nn.functional.cross_entropy(network(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            step += 1


def schedule(step: int, total: int) -> float:
    """Linear warm-up over a tenth of the steps, then half a cosine to 0."""
    warmup = WARMUP * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _test(network: torch.nn.Module, files: list[Path], labels: np.ndarray) -> float:
    transform, right = transform_of(network), 0
    network.eval()
    for rows in _batches(len(files)):
        images = torch.stack([transform(opened(files[row])) for row in rows])
        with torch.inference_mode():
            answers = network(images).argmax(1).numpy()
        right += int((answers == labels[rows]).sum())
    return right / len(files)


def _batches(count: int) -> Iterator[np.ndarray]:
    return iter(np.array_split(np.arange(count), math.ceil(count / 64)))


if __name__ == "__main__":
    main()
