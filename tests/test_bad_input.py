"""Mistakes of the user: exit code 2, an error of one sentence, and no file on the disk changes.

All rows share one folder of broken files, and none of them may write to it.
"""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.tfds_builders import Plain, Shapes
from tljax import cli
from tljax.config import base

CONFIGS = Path(__file__).parents[1] / "configs"
SHORT = ["--config.steps=2", "--config.eval_every=2", "--config.batch_size=8"]
SHORT += ["--config.image_size=16"]
SCRATCH = ["train", "--config", str(CONFIGS / "from_scratch.py"), "--workdir", "new", *SHORT]
DIGITS = [*SCRATCH, "--config.train_size=20"]
TOGETHER = ["--coordinator_address", "localhost:1", "--num_processes", "2"]
TUNE = ["train", "--config", str(CONFIGS / "fine_tune.py"), "--workdir", "new", *SHORT]
PLAN = ["plan", "--config", str(CONFIGS / "from_scratch.py")]
VIT = ("model=vit_micro_patch4_32",)
# A run of two steps, which does not beat the naive baseline.
GOOD = ["--config.init_from=runs/good", "--config.accept_source=True"]
PHOTOS = "--config.data=folder:data/good"

CONFIG_PAGES = {
    "broken.py": b"def get_config(:",
    "raises.py": b"def get_config(arg):\n    return 1 / 0\n",
    "exits.py": b"import sys\nsys.exit(0)\n",
    "endless.py": b"def get_config(arg):\n    return get_config(arg)\n",
    "no_function.py": b"x = 1\n",
    "arity.py": b"def get_config():\n    pass\n",
    "none.py": b"def get_config(arg):\n    pass\n",
    "dict.py": b"def get_config(arg):\n    return {'lr': 1}\n",
    "lacks.py": (
        b"import ml_collections\ndef get_config(arg):\n    return ml_collections.ConfigDict()\n"
    ),
    "typo.py": (
        b"from tljax.config import base\n"
        b"def get_config(arg):\n    c = base()\n    c.lrr = 1\n    return c\n"
    ),
    "type.py": (
        b"from tljax.config import base\n"
        b"def get_config(arg):\n    c = base()\n    c.lr = 'fast'\n    return c\n"
    ),
    "unset.py": (
        b"from tljax.config import base\n"
        b"def get_config(arg):\n    c = base()\n    c.lr = None\n    return c\n"
    ),
    "latin.py": b"# caf\xe9\n",
    "nul.py": b"x = 1\0\n",
    "imports.py": b"import a_module_that_is_not_there\n",
}


class Evil:
    """Creates a file if it is unpickled."""

    def __reduce__(self):
        return (Path("executed").touch, ())


def photos(folder, count=6, size=(40, 40)):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (40 * i, 10, 10)).save(folder / f"{i}.png")


def make_data(root):
    for name in ("good", "text", "truncated", "bomb", "zero", "pickle", "link", "fifo"):
        photos(root / name / "cats")
        photos(root / name / "dogs")
    (root / "text" / "dogs" / "7.png").write_text("not an image\n")
    Image.effect_noise((64, 64), 50).convert("RGB").save(root / "whole.jpg")
    truncated = (root / "whole.jpg").read_bytes()[:-300]
    (root / "truncated" / "dogs" / "7.jpg").write_bytes(truncated)
    bomb = bytearray((root / "good" / "cats" / "0.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, then the checksum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (root / "bomb" / "dogs" / "7.png").write_bytes(bomb)
    (root / "zero" / "dogs" / "7.png").write_bytes(b"")
    (root / "pickle" / "dogs" / "7.png").write_bytes(pickle.dumps(Evil()))
    (root / "link" / "dogs" / "7.png").symlink_to("nowhere")
    os.mkfifo(root / "fifo" / "cats" / "pipe.png")
    shutil.rmtree(root / "fifo" / "dogs")
    photos(root / "one" / "cats")
    photos(root / "hollow" / "cats")
    (root / "hollow" / "dogs").mkdir()
    (root / "empty").mkdir()
    (root / "file").write_text("")
    for split in ("train", "test"):
        photos(root / "odd" / split / "cats")
        photos(root / "odd" / split / ("dogs" if split == "train" else "wolves"))
    for split in ("train", "val", "valid"):
        photos(root / "twice" / split / "cats")
        photos(root / "twice" / split / "dogs")
    for split in ("train", "Test", "eval"):
        photos(root / "tested" / split / "cats", count=3)
        photos(root / "tested" / split / "dogs", count=3)
    shutil.copytree(root / "tested" / "train", root / "unused" / "train")
    shutil.copytree(root / "tested" / "train", root / "unused" / "holdout")
    shutil.copytree(root / "tested" / "train", root / "parts" / "my_train")
    shutil.copytree(root / "tested" / "train", root / "parts" / "my_test")
    shutil.copytree(root / "tested" / "train", root / "below" / "cats" / "train")
    photos(root / "below" / "dogs")
    photos(root / "phones" / "cats")
    (root / "phones" / "dogs").mkdir()
    (root / "phones" / "dogs" / "0.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    photos(root / "floats" / "cats")
    photos(root / "floats" / "dogs")
    Image.new("F", (40, 40)).save(root / "floats" / "dogs" / "7.tif")
    photos(root / "single" / "cats", count=1)
    photos(root / "single" / "dogs", count=1)
    strange = root / "strange" / "<b>\x1b[31m\nclass"
    photos(strange)
    photos(root / "strange" / "dogs")
    (strange / "a\nb.png").write_text("not an image\n")


def make_files(root):
    root.mkdir()
    (root / "empty.safetensors").write_bytes(b"")
    (root / "text.safetensors").write_text("no weights, but long enough to be read as one\n")
    (root / "huge.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    save_file({"a": np.zeros(3, np.float32)}, root / "other.safetensors")
    whole = (root / "other.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[:-4])
    (root / "weights.txt").write_text("")
    (root / "saved").mkdir()  # as `save_pretrained` does
    (root / "saved" / "config.json").write_text('{"model_type": "resnet"}')
    shutil.copy(root / "other.safetensors", root / "saved" / "model.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "../other.safetensors"}}
    (root / "torn.safetensors.index.json").write_text(json.dumps(index))
    with zipfile.ZipFile(root / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        archive.writestr("archive/version", "3")
    np.savez(root / "evil.npz", a=np.array([Evil()], dtype=object))
    (root / "text.npz").write_text("not an archive\n")
    (root / "text.h5").write_text("not an archive\n")
    Image.new("RGB", (40, 40)).save(root / "x.png")
    (root / "notes.png").write_text("no image\n")


def make_runs(root):
    """Makes a finished run, and damaged copies of it."""
    good = root / "good"
    argv = [*DIGITS[:4], str(good), *DIGITS[5:], "--config.seed=3"]
    assert cli.main(argv) == 0

    def copy(name):
        return shutil.copytree(good, root / name)

    (copy("no config") / "config.json").unlink()
    (copy("text config") / "config.json").write_text("not JSON")
    (copy("list config") / "config.json").write_text("[]")
    (copy("empty config") / "config.json").write_text("{}")
    config = json.loads((good / "config.json").read_text())
    wrong = json.dumps(config | {"model": "resnet05"})
    (copy("other model") / "config.json").write_text(wrong)
    (copy("wrong type") / "config.json").write_text(json.dumps(config | {"model": 5}))
    (copy("text classes") / "classes.json").write_text("not JSON")
    (copy("fewer classes") / "classes.json").write_text('["a", "b"]')
    (copy("odd classes") / "classes.json").write_text("5")
    (copy("text result") / "result.json").write_text("not JSON")
    (copy("list result") / "result.json").write_text("[]")
    lines = (good / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy("torn rows") / "metrics.jsonl").write_text("".join(["{torn\n", *lines]))
    (copy("binary rows") / "metrics.jsonl").write_bytes(b"\xff\xfe\n" * 3)
    (copy("odd rows") / "metrics.jsonl").write_text("[1]\n{}\n")
    shutil.rmtree(copy("no checkpoints") / "checkpoints")
    for path in (copy("damaged") / "checkpoints").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    unfinished = copy("unfinished")
    (unfinished / "result.json").unlink()
    (unfinished / "metrics.jsonl").write_text("".join(lines[1:]))
    (root / "file").write_text("")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    (root / "configs").mkdir()
    for name, content in CONFIG_PAGES.items():
        (root / "configs" / name).write_bytes(content)
    (root / "configs" / "folder.py").mkdir()
    make_data(root / "data")
    for builder in (Shapes(data_dir=root / "tfds"), Plain(data_dir=root / "tfds", config="all")):
        builder.download_and_prepare(file_format="array_record")
    make_files(root / "files")
    make_runs(root / "runs")
    (root / "folder.csv").mkdir()
    yield root
    os.chdir(before)


def page(name):
    return ["train", "--config", f"configs/{name}", "--workdir", "new"]


def field(*overrides):
    return [*DIGITS, *(f"--config.{override}" for override in overrides)]


def tuned(*overrides):
    argv = [*TUNE, *GOOD, "--config.train_size=20"]
    return [*argv, *(f"--config.{override}" for override in overrides)]


def from_file(name):
    return [*TUNE, "--config.model=resnet18", f"--config.init_from=files/{name}"]


def data(name):
    return [*SCRATCH, f"--config.data=folder:data/{name}", "--config.epochs=3"]


def records(spec):
    return [*SCRATCH, f"--config.data=tfds:{spec}", "--config.data_dir=tfds"]


def prepare(data, data_dir="new"):
    return ["prepare", data, "--data_dir", data_dir]


def rerun(name, *overrides):
    argv = [*DIGITS[:4], f"runs/{name}", *DIGITS[5:], "--config.seed=3"]
    return [*argv, *(f"--config.{override}" for override in overrides)]


def evaluate(name, *more):
    return ["evaluate", "--workdir", f"runs/{name}", *more]


def predict(*words):
    return ["predict", "--workdir", "runs/good", *words]


def find_lr(*more):
    return ["find_lr", *SCRATCH[1:3], *more]


def report(*words, output="new.html"):
    return ["report", *words, "--output", output]


def sweep(*more, name="sweep_lr_k", workdir="new"):
    return ["sweep", "--config", str(CONFIGS / f"{name}.py"), "--workdir", workdir, *more]


def convert(source, *more, output="new.safetensors"):
    return ["convert", source, "--model", "resnet18", "--output", output, *more]


ROWS = {
    # --- config files
    "no such config": (page("nope.py"), "there is no config file 'configs/nope.py'"),
    "a folder as config": (page("folder.py"), "there is no config file 'configs/folder.py'"),
    "a config that is not Python": (page("../files/weights.txt"), "not a Python file"),
    "a config with a syntax error": (page("broken.py"), "SyntaxError"),
    "a config that divides by zero": (page("raises.py"), "ZeroDivisionError"),
    "a config that exits": (page("exits.py"), "SystemExit"),
    "a config that never ends": (page("endless.py"), "RecursionError"),
    "a config without get_config": (page("no_function.py"), "get_config"),
    "a config whose get_config takes nothing": (page("arity.py"), "TypeError"),
    "a config that gives nothing": (page("none.py"), "NoneType"),
    "a config that gives a dict": (page("dict.py"), "gives a dict, not a config"),
    "a config that lacks fields": (page("lacks.py"), "lacks the field"),
    "a config that sets a field that is none": (page("typo.py"), "lrr"),
    "a config that sets a wrong type": (page("type.py"), "TypeError"),
    "a config that sets a field to nothing": (page("unset.py"), "sets lr to None"),
    "a mistyped name of a config": (
        [*page("x")[:2], "fine_tunes", *page("x")[3:]],
        "did you mean 'fine_tune'?); give the path of one, or one of the names cats_vs_dogs, ",
    ),
    "a config that only a checkout has": (page("fine_tune.py"), "did you mean 'fine_tune'?"),
    "a config without a name": (["plan", "--config", ""], "there is no config file"),
    "a config in Latin-1": (page("latin.py"), "fix the file"),
    "a config with a NUL": (page("nul.py"), "fix the file"),
    "a config that imports what is not there": (page("imports.py"), "a_module_that_is_not_there"),
    # --- overrides
    "a mistyped field": (field("lrr=1"), "did you mean 'lr'?"),
    "a number in words": (field("lr=fast"), "config.lr=fast"),
    "a float for a whole number": (field("batch_size=1.5"), "config.batch_size"),
    "no value": (field("lr"), "lr"),
    "nothing for a field that has a value": (
        field("augment=None"),
        "--config.augment is None, but this field always has a value; leave it out, or give one,"
        " such as its default 'none'",
    ),
    "a mistyped flag": ([*DIGITS, "--confg.lr=1"], "unknown argument '--confg.lr=1'"),
    "a flag file": ([*DIGITS, "--flagfile=/nope"], "unknown argument"),
    "a process without others": ([*DIGITS, "--num_processes", "2"], "belong together"),
    "an address without a port": (
        [*DIGITS, *TOGETHER, "--process_id", "1", "--coordinator_address", "localhost"],
        "HOST:PORT",
    ),
    "a process too many": ([*DIGITS, *TOGETHER, "--process_id", "2"], "--process_id is 2 of"),
    "a stray word": ([*DIGITS, "fast"], "unknown argument 'fast'"),
    # --- values
    "a negative learning rate": (field("lr=-1"), "lr is -1.0"),
    "a learning rate that is no number": (field("lr=nan"), "lr is nan"),
    "a learning rate without end": (field("lr=inf"), "lr is inf"),
    "a learning rate that gives NaN": (field("lr=1e30"), "lower lr"),
    "no batch": (field("batch_size=0"), "batch_size is 0"),
    "no steps": (field("steps=0"), "steps is 0"),
    "epochs that are no number": (field("epochs=nan"), "epochs is nan"),
    "momentum of 2": (field("momentum=2"), "below 1"),
    "a negative weight decay": (field("weight_decay=-1"), "weight_decay is -1.0"),
    "clipping at 0": (field("clip_norm=0"), "clip_norm is 0.0"),
    "a warm-up longer than the run": (field("warmup=9"), "warmup is 9 steps"),
    "a seed beyond 32 bits": (field("seed=99999999999"), "seed is"),
    "a negative seed": (field("seed=-1"), "seed is -1"),
    "no checkpoint to keep": (field("keep=0"), "keep is 0"),
    "a negative number of workers": (field("num_workers=-1"), "num_workers is -1"),
    "a pattern that is none": (field("decayed=("), "decayed is '('"),
    "a train pattern that is none": (field("train=("), "train='('"),
    "a train pattern that matches nothing": (field("train=nothing"), "nothing"),
    "a crop area of one number": (field("crop_area=(.5,)"), "shares"),
    "milestones in steps": (field("milestones=(30,)"), "shares"),
    "drop path of 1": (field("drop_path=1"), "drop_path is 1.0"),
    "an unknown optimizer": (field("optimizer=sdg"), "'sgd'"),
    "an unknown schedule": (field("schedule=cosin"), "'cosine'"),
    "an unknown augmentation": (field("augment=flip"), "augment"),
    "labels smoothed away": (field("label_smoothing=1"), "label_smoothing is 1.0"),
    "a negative smoothing": (field("label_smoothing=-0.1"), "label_smoothing is -0.1"),
    "unknown weights of classes": (field("class_weights=balancd"), "'balanced'"),
    "an unknown sampling": (field("sampling=random"), "sampling"),
    "rare classes that count twice": (
        field("sampling=balanced", "class_weights=balanced"),
        "count twice",
    ),
    "a negative mixup": (field("mixup=-1"), "mixup is -1.0"),
    "mixup without end": (field("mixup=inf"), "mixup is inf"),
    "a CutMix that is no number": (field("cutmix=nan"), "cutmix is nan"),
    "an average of nothing new": (field("ema=1"), "ema is 1.0"),
    "an average of the last step": (field("ema=0"), "ema is 0.0"),
    "no patience": (field("patience=0"), "patience is 0"),
    "parts that do not divide the batch": (field("accumulate=3"), "divide batch_size 8"),
    "no parts": (field("accumulate=0"), "accumulate is 0"),
    "parts that batch statistics do not have": (field("accumulate=2"), "statistics of the batch"),
    "a flag that is neither true nor false": (field("remat=perhaps"), "config.remat"),
    "the same data twice": (field("data=embedded:digits,embedded:digits"), "twice"),
    "a second data set that is not there": (field("data=embedded:digits,folder:nope"), "nope"),
    "an unknown cache": (field("cache=ram"), "cache"),
    "a cache of images that change": (
        [
            *(*TUNE, "--config.scenario=feature_extraction", *GOOD),
            *("--config.augment=crop", "--config.cache=disk"),
        ],
        "images are augmented",
    ),
    "a cache of images that are mixed": (
        [
            *(*TUNE, "--config.scenario=feature_extraction", *GOOD),
            *("--config.augment=none", "--config.cutmix=1", "--config.cache=memory"),
        ],
        "nothing can be cached",
    ),
    "no views": (field("views=0", "augment=crop"), "views is 0"),
    "views that are all the same": (field("views=2", "augment=none"), "augment is none"),
    "denseness that is neither true nor false": (field("eval_dense=2"), "config.eval_dense"),
    "no TPU slice": ([*PLAN, "--target", "v5e-8"], "there is no TPU slice 'v5e-8'"),
    "a TPU of tomorrow": ([*PLAN, "--target", "v9:2x2"], "v4, v5e, v5p, v6e"),
    "the largest batch of nothing": ([*PLAN, "--max_batch"], "--target"),
    "no mesh": (field("mesh=eight"), "mesh is 'eight'"),
    "a mesh of other devices": (field("mesh=data:3"), "number of devices, 1"),
    "two axes for what is left": (field("mesh=data:-1,fsdp:-1"), "one of them -1"),
    "an unknown scenario": (field("scenario=finetune"), "fine_tune"),
    "unknown statistics": (field("statistics=own"), "statistics"),
    "an unknown dtype": (field("dtype=float8"), "dtype"),
    "an unknown start of the head": (field("head_init=one"), "head_init"),
    "an unknown way with errors": (field("on_error=ignore"), "on_error"),
    "an unknown interpolation": (field("interpolation=cubic"), "interpolation"),
    "a normalisation of two numbers": (field("normalisation=0.5 0.5"), "normalisation"),
    "a crop ratio of 2": (field("crop_ratio=2"), "crop_ratio"),
    "an unknown resampling": (field("position_resampling=nearest"), "position_resampling"),
    "a group that is none": (field("last_group=layer9"), "layer9"),
    "an unknown model": (field("model=resnet05"), "'resnet50'"),
    "images that do not fit the patches": (
        field("model=vit_micro_patch4_32", "image_size=30"),
        "try 32",
    ),
    "images of no size": (field("image_size=0"), "image_size"),
    "LoRA of no rank": (field(*VIT, "lora_rank=0"), "lora_rank is 0"),
    "LoRA of a ResNet": (field("lora_rank=4"), "choose a ViT"),
    "LoRA of random weights": (field(*VIT, "lora_rank=4"), "starts from random weights"),
    "LoRA of a rank beyond the width": (field(*VIT, "lora_rank=65"), "at most 64"),
    "LoRA times 0": (field(*VIT, "lora_rank=4", "lora_alpha=0"), "lora_alpha is 0.0"),
    "LoRA's alpha without LoRA": (
        field(*VIT, "lora_alpha=4"),
        "without lora_rank",
    ),
    "LoRA of layers that are not there": (
        field(*VIT, "lora_rank=4", "lora_targets=.*qvk"),
        "matches no dense layer",
    ),
    "LoRA of a broken pattern": (field(*VIT, "lora_rank=4", "lora_targets=("), "lora_targets"),
    "k where it means nothing": (
        field("k=2"),
        "scenario is from_scratch, which does not use it; unset k, or set scenario to freeze_first"
        " or surgical",
    ),
    "k beyond the depth": (
        [*TUNE, "--config.scenario=freeze_first", "--config.k=6", *GOOD],
        "k goes from 0 to 5",
    ),
    "a spread beside a decay": (tuned("lr_spread=100", "layer_decay=0.5"), "set one of them"),
    "a spread below 1": (tuned("lr_spread=0.5"), "lr_spread is 0.5"),
    "a spread where nothing is spread": (field("lr_spread=100"), "set scenario to fine_tune"),
    "a range without its end": (
        tuned("scenario=surgical", "k=1"),
        "set k_last to a value from 0 to 4",
    ),
    "a range beyond the depth": (
        tuned("scenario=surgical", "k=1", "k_last=5"),
        "choose 0 <= k <= k_last <= 4",
    ),
    "k_last where it means nothing": (tuned("k_last=2"), "k_last is 2"),
    "more to start from than there is": (tuned("init_k=6"), "init_k goes from 0 to 5"),
    "a start that nothing has": (field("init_k=2"), "unset init_k"),
    "a kept head above new groups": (tuned("init_k=2", "head_init=pretrained"), "a new head"),
    "a probe above new groups": (tuned("init_k=2", "stages=lp_ft"), "unset init_k"),
    "a negative seed of the data": (field("data_seed=-1"), "data_seed is -1"),
    "an unknown recipe in stages": (tuned("stages=lpft"), "did you mean 'lp_ft'?"),
    "stages of a scenario that freezes all but the head": (
        tuned("stages=lp_ft", "scenario=feature_extraction"),
        "use scenario fine_tune",
    ),
    "stages from scratch": (field("stages=gradual_unfreezing"), "use scenario fine_tune"),
    "fewer steps than stages": (tuned("stages=gradual_unfreezing"), "set it to 6 or more"),
    "a probe of all steps": (tuned("stages=lp_ft", "probe_share=1"), "probe_share is 1.0"),
    "a probe without stages": (tuned("probe_share=0.5"), "stages is not set"),
    "a probe's negative rate": (tuned("stages=lp_ft", "probe_lr=-1"), "probe_lr is -1.0"),
    "a probe's rate in other stages": (
        tuned("stages=gradual_unfreezing", "probe_lr=1"),
        "set stages to lp_ft",
    ),
    "no groups a stage": (
        tuned("stages=gradual_unfreezing", "groups_per_stage=0"),
        "groups_per_stage is 0",
    ),
    "groups a stage of a probe": (
        tuned("stages=lp_ft", "groups_per_stage=2"),
        "set stages to gradual_unfreezing",
    ),
    "a warm-up longer than a stage": (
        tuned("stages=lp_ft", "warmup=1"),
        "stage 1 of 2: warmup is 1 steps",
    ),
    "a negative pull": (tuned("l2_sp_alpha=-1"), "l2_sp_alpha is -1.0"),
    "a pull that is no number": (tuned("l2_sp_beta=nan"), "l2_sp_beta is nan"),
    "a pull to weights that there are not": (
        field("l2_sp_alpha=0.1", "weight_decay=0"),
        "nothing whose init is pretrained",
    ),
    "a pull beside weight decay": (
        tuned("l2_sp_beta=0.1", "weight_decay=0.0005"),
        "weight_decay is 0.0005",
    ),
    "a solved head below which groups train": (
        tuned("optimizer=lbfgs"),
        "solves the head alone and all of it, but this plan trains",
    ),
    "a negative strength": (tuned("l2=-1"), "l2 is -1.0"),
    "a strength and no solved head": (tuned("l2=1", "head_init=zero"), "no head is solved"),
    "a solved head from scratch": (field("head_init=solved"), "set head_init to zero"),
    "a choice without images to choose on": (
        tuned("wise_ft=True", "wise_ft_alpha=None", "val_fraction=0"),
        "no validation images to choose on",
    ),
    "a place off the line": (tuned("wise_ft_alpha=1.5"), "wise_ft_alpha is 1.5"),
    "a place on no line": (tuned("wise_ft=False", "wise_ft_alpha=0.5"), "wise_ft is False"),
    "trials of no rate": (tuned("trial_lr=0.1,nan"), "trial_lr is ('0.1,nan',)"),
    "trials of what validation decides": (tuned("trial_lr=(0.1,)"), "leave trial_lr out"),
    "an unknown way with a loss that is not finite": (tuned("on_nan=ignore"), "on_nan"),
    "a pull in stages": (
        tuned("l2_sp_alpha=0.1", "weight_decay=0", "stages=lp_ft"),
        "stage 1 of 2: l2_sp_alpha",
    ),
    "an unknown rule": (field("hyperrule=bot"), "there is no hyperrule 'bot'"),
    "a rule that keeps what is no field": (
        field("hyperrule=bit", "hyperrule_keeps=('lrr',)"),
        "did you mean 'lr'?",
    ),
    "a negative layer decay": (
        [*TUNE, "--config.layer_decay=-1", *GOOD],
        "layer_decay",
    ),
    # --- data
    "data without a scheme": (field("data=digits"), "wds:SHARDS or tfds:NAME"),
    "data of an unknown scheme": (field("data=foldr:x"), "did you mean 'folder'?"),
    "mistyped embedded data": (field("data=embedded:digit"), "'digits'"),
    "no such folder": (data("nope"), "does not exist"),
    "a home that is nobody's": (field("data=folder:~nobody_at_all/x"), "nobody_at_all"),
    "a file as folder": (data("file"), "is a file"),
    "an empty folder": (data("empty"), "holds no class folders"),
    "one class": (data("one"), "only one class folder"),
    "a class without images": (data("hollow"), "dogs"),
    "a test class that training lacks": (data("odd"), "wolves"),
    "two validation folders": (data("twice"), "both val and valid"),
    "two test folders": (data("tested"), "both Test and eval"),
    "a folder beside train that is not used": (data("unused"), "unused/holdout holds folders"),
    "splits of other names": (data("parts"), "no folder called train, but my_test, my_train"),
    "splits below the classes": (data("below"), "below/cats/train lies in"),
    "a class of images that are not read": (data("phones"), "can be read, but e.g. 0.heic"),
    "one image a class": (data("single"), "one image per class"),
    "a pipe named like an image": (data("fifo"), "only one class folder"),
    "more images than there are": (field("train_size=100000"), "train_size is 100000"),
    "both sizes": (field("train_per_class=5"), "set one of them"),
    "a fold of none": (field("fold=0"), "fold is 0, but folds is not set"),
    "a fold too many": ([*field("folds=3"), "--config.fold=3"], "set it from 0 to 2"),
    "everything for validation": (field("val_fraction=1"), "val_fraction is 1.0"),
    "a text file named .png": (data("text"), "7.png"),
    "a truncated JPEG": (data("truncated"), "7.jpg"),
    "a decompression bomb": (data("bomb"), "pixels"),
    "an image of no bytes": (data("zero"), "7.png"),
    "a pickle named .png": (data("pickle"), "7.png"),
    "a link to nowhere": (data("link"), "No such file"),
    "an image of floats": (data("floats"), "set deep_images to own_range"),
    "a metric of numbers for classes": (field("select_by=rmse"), "there is no select_by 'rmse'"),
    "a loss of numbers for classes": (
        field("regression_loss=huber"),
        "but the labels are of the kind classes",
    ),
    "no channels": (field("channels=0"), "set it to 1 or more"),
    "channels of data that is RGB": (field("channels=1"), "is read as RGB; leave channels out"),
    "a mistyped scaling of deep images": (
        field("deep_images=own_rnge"),
        "did you mean 'own_range'",
    ),
    "names with newlines, tags and escapes": (data("strange"), r"<b>\x1b[31m\nclass/a\nb.png"),
    # --- TensorFlow Datasets
    "tfds: no name": (records(""), "names no data set"),
    "tfds: what is not prepared": (
        records("mnist"),
        "run `tljax prepare tfds:mnist --data_dir /",
    ),
    "tfds: a mistyped name": (records("shape"), "did you mean 'shapes'?"),
    "tfds: a config that is not prepared": (
        records("plain/half"),
        "tfds:plain/half is not prepared",
    ),
    "tfds: a config of what has none": (records("shapes/large"), "tljax prepare tfds:shapes/large"),
    "tfds: another version": (records("shapes:2.0.0"), "there is 1.0.0"),
    "tfds: a version that is none": (records("shapes:1"), "there is 1.0.0"),
    "tfds: spaces": (records("my shapes"), "names no data set"),
    "tfds: a choice of nothing": (records("shapes?train="), "is not of the form KEY=VALUE"),
    "tfds: no choice": (records("shapes?"), "is not of the form KEY=VALUE"),
    "tfds: an unknown choice": (records("shapes?tests=test"), "did you mean 'test'?"),
    "tfds: two choices": (records("shapes?train=train,train=test"), "chooses train twice"),
    "tfds: a split that is not there": (
        records("shapes?train=trian"),
        "it has train (24), test (9)",
    ),
    "tfds: a slice that is none": (records("shapes?train=train[:]"), "train=train[:]"),
    "tfds: a slice beyond the end": (records("shapes?train=train[:25]"), "train[:25]"),
    "tfds: a slice of nothing": (records("shapes?train=train[5:5]"), "there is nothing in"),
    "tfds: a slice that runs backwards": (
        records("shapes?train=train[5:3]"),
        "there is nothing in",
    ),
    "tfds: an image for training and testing": (
        records("shapes?train=train[:12],test=train[11:]"),
        "train[11] is in train=train[:12] and in test=train[11:]",
    ),
    "tfds: images twice": (records("shapes?train=train+train[:2]"), "share no image"),
    "tfds: no train split": (records("plain"), "cannot read train=train of tfds:plain"),
    "tfds: images without labels": (
        records("plain?train=all_of_it,test=unlabelled"),
        "unlabelled[0] has the label -1",
    ),
    "tfds: no such feature": (records("shapes?label=lable"), "did you mean 'label'?"),
    "tfds: a label that is text": (records("shapes?label=name"), "does not hold class labels"),
    "tfds: an image that is a label": (records("shapes?image=label"), "does not hold uint8 images"),
    "tfds: no such module": (records("nowhere.Shapes"), "No module named 'nowhere'"),
    "tfds: a class that is no builder": (records("pathlib.Path"), "is no builder of TFDS"),
    "tfds: a folder that is none": (records("./data/good"), "it holds no dataset_info.json"),
    "tfds: a file system that is none": (records("nope://x/y"), "cannot read nope://x/y"),
    "data_dir of other data": (field("data_dir=tfds"), "unset data_dir"),
    "evaluate: records that are not prepared": (
        evaluate("good", "--data", "tfds:mnist", "--data_dir", "tfds"),
        "run `tljax prepare tfds:mnist --data_dir tfds`",
    ),
    "prepare: other data": (prepare("folder:data/good"), "needs no preparation"),
    "prepare: a folder": (prepare("tfds:./tfds/shapes/1.0.0"), "name the data set"),
    "prepare: in a bucket": (prepare("tfds:mnist", "gs://bucket/data"), "gcloud storage rsync"),
    "prepare: no such builder": (prepare("tfds:nowhere.Shapes"), "No module named 'nowhere'"),
    "prepare: a version that is not there": (
        prepare("tfds:tests.tfds_builders.Shapes:3.0.0"),
        "cannot be loaded at version 3.0.0",
    ),
    "prepare: a config that is not there": (
        prepare("tfds:tests.tfds_builders.Plain/third"),
        "cannot prepare",
    ),
    "prepare: a file as data_dir": (
        prepare("tfds:tests.tfds_builders.Shapes", "files/x.png"),
        "choose another --data_dir",
    ),
    # --- weights
    "no source": (TUNE, "init_from"),
    "an empty folder as source": ([*TUNE, "--config.init_from=data/empty"], "not a workdir"),
    "a folder of images as source": ([*TUNE, "--config.init_from=data/good"], "not a workdir"),
    "a mistyped name": ([*TUNE, "--config.init_from=resnet50.a1_in2k"], "did you mean"),
    "no such file": (from_file("nope.safetensors"), "nope.safetensors"),
    "an empty file": (from_file("empty.safetensors"), "empty.safetensors"),
    "a text file as weights": (from_file("text.safetensors"), "not a .safetensors file"),
    "a header of 2^62 bytes": (from_file("huge.safetensors"), "huge.safetensors"),
    "a file that was cut off": (from_file("cut.safetensors"), "truncated"),
    "weights of something else": (from_file("other.safetensors"), "none of the tensors"),
    "an unknown kind of file": (from_file("weights.txt"), "save_pretrained wrote"),
    "a folder of other weights": (from_file("saved"), "none of the tensors"),
    "a folder of weights as workdir": (
        ["evaluate", "--workdir", "files/saved"],
        "can be used with init_from",
    ),
    "a run in a folder of weights": (
        [*DIGITS[:4], "files/saved", *DIGITS[5:]],
        "a config.json that tljax did not write",
    ),
    "an index that leads elsewhere": (
        from_file("torn.safetensors.index.json"),
        "does not say which files hold the weights",
    ),
    "an init_key that no name has": (
        [*from_file("other.safetensors"), "--config.init_key=student"],
        "begins with init_key=student; leave it out",
    ),
    "the init_key of a workdir": (tuned("init_key=ema"), "runs/good' is a workdir; leave it out"),
    "an address without its query": (
        [*TUNE, "--config.model=resnet18", "--config.init_from=https://***@localhost:9/a.npz?***"],
        "give the whole address",
    ),
    "a pickle in a .pth": (from_file("evil.pth"), "evil.pth"),
    "a pickle in a .npz": (from_file("evil.npz"), "evil.npz"),
    "a text file as .npz": (from_file("text.npz"), "text.npz"),
    "a text file as .h5": (from_file("text.h5"), "text.h5"),
    "a workdir of another model": (
        [*TUNE, "--config.model=resnet18", *GOOD],
        "resnet10_32",
    ),
    "a server that is not there": (
        [*TUNE, "--config.model=resnet18", "--config.init_from=https://localhost:9/a.npz"],
        "https://localhost:9/a.npz",
    ),
    "an address without a file": (
        [*TUNE, "--config.model=resnet18", "--config.init_from=hf://timm"],
        "hf://",
    ),
    "an address of an unknown kind": (
        [*TUNE, "--config.model=resnet18", "--config.init_from=ftp://x/a.npz"],
        "ftp://",
    ),
    # --- workdirs
    "a file as workdir": ([*DIGITS[:4], "runs/file", *DIGITS[5:]], "cannot write to the workdir"),
    "a workdir in /proc": (
        [*DIGITS[:4], "/proc/tljax", *DIGITS[5:]],
        "cannot write to the workdir '/proc/tljax'",
    ),
    "a workdir below a file": ([*DIGITS[:4], "runs/file/run", *DIGITS[5:]], "cannot write"),
    "a name that is too long": ([*DIGITS[:4], "x" * 300, *DIGITS[5:]], "name too long"),
    "another learning rate": (rerun("good", "lr=0.5"), "lr was"),
    "more epochs": (
        rerun("good", "epochs=20"),
        "set init_from=runs/good and head_init=pretrained (and, if scenario is from_scratch,"
        " scenario=fine_tune) in a new workdir",
    ),
    "another data set": (rerun("good", "data=embedded:textures"), "data was embedded:digits"),
    "a run whose config is no JSON": (rerun("text config"), "config.json"),
    "a run whose result is no JSON": (rerun("text result"), "result.json"),
    "a run whose result is a list": (rerun("list result"), "result.json"),
    "a run whose rows were edited": (rerun("unfinished"), "does not hold the rows"),
    "a finished run whose rows are torn": (rerun("torn rows"), "line 1 of"),
    "evaluate: no such workdir": (evaluate("nope"), "not a workdir"),
    "evaluate: a file": (evaluate("file"), "not a workdir"),
    "evaluate: no config": (evaluate("no config"), "config.json"),
    "evaluate: a config that is no JSON": (evaluate("text config"), "config.json"),
    "evaluate: a config that is a list": (evaluate("list config"), "config.json"),
    "evaluate: an empty config": (evaluate("empty config"), "config.json"),
    "evaluate: a config of an unknown model": (evaluate("other model"), "resnet05"),
    "evaluate: a config of wrong types": (evaluate("wrong type"), "model"),
    "evaluate: classes that are no JSON": (evaluate("text classes"), "classes.json"),
    "evaluate: fewer classes than logits": (evaluate("fewer classes"), "classes"),
    "evaluate: classes that are a number": (evaluate("odd classes"), "classes.json"),
    "evaluate: rows that are torn": (evaluate("torn rows"), "line 1 of"),
    "evaluate: rows that are no text": (evaluate("binary rows"), "metrics.jsonl"),
    "evaluate: rows of something else": (evaluate("odd rows"), "metrics.jsonl"),
    "evaluate: no checkpoints": (evaluate("no checkpoints"), "holds no checkpoint"),
    "evaluate: damaged checkpoints": (evaluate("damaged"), "is damaged"),
    "evaluate: other classes": (evaluate("good", "--data", "embedded:glyphs"), "classes"),
    "evaluate: no such data": (evaluate("good", "--data", "folder:data/nope"), "does not exist"),
    "evaluate: a head for no data": (evaluate("good", "--refit_head"), "name the data with --data"),
    "evaluate: an unknown task": (evaluate("good", "--task", "embedded:digit"), "embedded:digits"),
    "evaluate: an unknown task on other data": (
        evaluate("good", "--data", "embedded:digits_shifted", "--task", "cats"),
        "no task 'cats'",
    ),
    # --- find_lr
    "find_lr: no such config": (["find_lr", "--config", "nope.py"], "no config file"),
    "find_lr: no source": (["find_lr", *TUNE[1:3]], "init_from"),
    "find_lr: stages": (
        [
            *("find_lr", *TUNE[1:3], *GOOD),
            "--config.stages=lp_ft",
        ],
        "each stage may need its own rate",
    ),
    "find_lr: rates from 0": (find_lr("--lowest", "0"), "set --lowest above 0"),
    "find_lr: rates that fall": (find_lr("--highest", "1e-9"), "--highest above that"),
    "find_lr: no steps": (find_lr("--steps", "0"), "--steps is 0"),
    "find_lr: output of another kind": (find_lr("--output", "x.pdf"), ".png"),
    "find_lr: output in no folder": (find_lr("--output", "no/x.png"), "make it first"),
    "find_lr: images that cannot be read": (
        find_lr(
            "--config.data=folder:data/text", "--config.augment=none", "--config.batch_size=64"
        ),
        "7.png",
    ),
    # --- report
    "report: no such folder": (report("runs/nope"), "no workdir"),
    "report: a folder without runs": (report("data/good"), "no workdir"),
    "report: a run that is not done": (report("runs/unfinished"), "none of the 1 runs is done"),
    "report: a result that is a list": (report("runs/list result"), "result.json"),
    "report: rows that are torn": (report("runs/torn rows"), "line 1 of"),
    "report: rows of something else": (report("runs/odd rows"), "metrics.jsonl"),
    "report: a config of an unknown model": (report("runs/other model"), "resnet05"),
    "report: output of another kind": (report("runs/good", output="r.pdf"), ".html"),
    "report: output in no folder": (report("runs/good", output="no/r.html"), "make it first"),
    "report: figures in a file": (
        report("runs/good", "--png", "runs/file"),
        "give another folder with --png",
    ),
    "report: figures in no folder": (report("runs/good", "--png", "no/figures"), "make it first"),
    # --- predict
    "predict: no such image": (predict("files/nope.png"), "nope.png"),
    "predict: a folder without images": (predict("data/empty"), "holds no images"),
    "predict: a text file": (predict("files/notes.png"), "notes.png"),
    "predict: a damaged image": (predict("files/x.png", "data/truncated"), "7.jpg"),
    "predict: nothing that can be read": (
        predict("files/notes.png", "--on_error", "skip"),
        "none of the 1 images",
    ),
    "predict: a pipe": (predict("data/fifo/cats/pipe.png"), "pipe.png"),
    "predict: output of another kind": (predict("files/x.png", "--output", "p.txt"), ".csv"),
    "predict: output in no folder": (predict("files/x.png", "--output", "no/p.csv"), "make it"),
    "predict: output that is a folder": (
        predict("files/x.png", "--output", "folder.csv"),
        "folder",
    ),
    "predict: output in /proc": (predict("files/x.png", "--output", "/proc/p.csv"), "/proc/p.csv"),
    "predict: an unknown task": (predict("files/x.png", "--task", "cats"), "no task 'cats'"),
    "predict: a mistyped option": (predict("files/x.png", "--outptu=p.csv"), "--outptu"),
    # --- convert, export, plan, demo, models
    "convert: no such file": (convert("files/nope.npz"), "nope.npz"),
    "convert: weights of something else": (convert("files/other.safetensors"), "none of the"),
    "convert: output of another kind": (convert("files/other.safetensors", output="x.pt"), ".pt"),
    "convert: output in no folder": (
        convert("files/other.safetensors", output="no/x.safetensors"),
        "make it first",
    ),
    "convert: an unknown model": (
        ["convert", "files/other.safetensors", "--model", "resnet05", "--output", "x.safetensors"],
        "resnet05",
    ),
    "export: an unknown format": (
        ["export", "--workdir", "runs/good", "--format", "tim", "--output", "x.safetensors"],
        "timm",
    ),
    "export: a task of no run": (
        [
            *("export", "--init_from", "files/other.safetensors", "--model", "resnet18"),
            *("--task", "cats", "--format", "timm", "--output", "x.safetensors"),
        ],
        "give the run with --workdir",
    ),
    "export: neither workdir nor weights": (
        ["export", "--format", "timm", "--output", "x.safetensors"],
        "give one",
    ),
    "export: a network that torchvision lacks": (
        [
            *("export", "--init_from", "files/other.safetensors", "--format", "torchvision"),
            *("--model", "vit_micro_patch4_32", "--output", "x.safetensors"),
        ],
        "torchvision",
    ),
    "plan: trials of no rate": ([*PLAN, "--config.trial_lr=(nan,)"], "finite numbers above 0"),
    "plan: no batch": (
        ["plan", "--config", str(CONFIGS / "from_scratch.py"), "--config.batch_size=0"],
        "batch_size is 0",
    ),
    "sweep: a page without one": (sweep(name="from_scratch"), "has no sweep()"),
    "sweep: no such page": (sweep(name="nope"), "there is no config file"),
    "sweep: a shard beyond the last": (sweep("--shard", "2/2"), "--shard is '2/2'"),
    "sweep: a choice by what is no field": (sweep("--by", "k,lrr"), "did you mean 'lr'?"),
    "sweep: what it sets is overridden": (sweep("--config.k=2"), "so does --config.k"),
    "sweep: no source": (sweep("--config.init_from=data/empty"), "in the run k=1,lr=0.03,seed=0"),
    "sweep: a file as workdir": (
        sweep(*GOOD, workdir="runs/file"),
        "runs/file",
    ),
    "demo: no seeds": (["demo", "--seeds", "0", "--workdir", "new"], "--seeds is 0"),
    "demo: a file as workdir": (["demo", "--workdir", "runs/file"], "runs/file"),
    "models: a pattern of nothing": (["models", "resnet51"], "resnet51"),
}


if importlib.util.find_spec("tensorflow") is None:
    ROWS["prepare: without TensorFlow"] = (prepare("tfds:mnist"), "constraints.txt '.[prepare]'")


def tree(root):
    """Every path below `root` except locks, with bytes (small files) or size and mtime."""

    def held(path):
        if path.is_symlink() or not path.is_file():
            return None
        status = path.stat()
        return path.read_bytes() if status.st_size < 2**16 else (status.st_size, status.st_mtime_ns)

    return {path: held(path) for path in root.rglob("*") if path.name != ".lock"}


@pytest.fixture(scope="module")
def seen(world):
    """A list that ends with the tree as the last row left it, so that each row is read once."""
    return [tree(world)]


@pytest.mark.parametrize("row", ROWS)
def test_one_sentence_and_nothing_changed(row, world, seen, capsys):
    argv, fragment = ROWS[row]
    capsys.readouterr()
    try:
        code = cli.main(argv)
        begun = (world / "new").exists()
        assert not (world / "new" / "result.json").exists()
    finally:
        shutil.rmtree(world / "new", ignore_errors=True)
    before, after = seen.pop(), tree(world)
    seen.append(after)
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if not line.startswith(("step ", "tljax: warning:"))]
    assert code == 2, err
    assert len(told) == 1, err
    assert told[0].startswith("tljax: ")
    assert fragment in told[0]
    assert out == ""
    assert after == before
    late = ("step 0", "loss became", "cannot read image")  # what training itself finds
    assert not begun or any(words in err for words in late), "found before writing"


def test_there_are_enough_rows():
    assert len(ROWS) >= 60


@pytest.mark.parametrize("row", ["a mistyped field", "a pickle in a .npz", "evaluate: no config"])
def test_as_a_process(row, world):
    argv, fragment = ROWS[row]
    command = [sys.executable, "-m", "tljax.cli", *argv]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert done.returncode == 2
    assert fragment in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_traceback_on_demand(world):
    command = [sys.executable, "-m", "tljax.cli", "--debug", *ROWS["no such config"][0]]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_backend_that_is_not_there(world):
    done = subprocess.run(
        [sys.executable, "-m", "tljax.cli", *DIGITS],
        cwd=world,
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "nonsense" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (world / "new").exists()


@pytest.mark.parametrize("closed", ["stdout", "cache"])
def test_what_is_around_may_be_missing(closed, world):
    """A closed stdout or a missing cache of compiled programs causes no traceback."""
    argv = [sys.executable, "-m", "tljax.cli", *evaluate("good")]
    variables = {**os.environ}
    if closed == "cache":
        variables |= {"XDG_CACHE_HOME": "/proc/nowhere", "HOME": "/proc/nowhere"}
    with open("/dev/full" if closed == "stdout" else os.devnull, "w") as out:
        done = subprocess.run(argv, cwd=world, env=variables, stdout=out, stderr=subprocess.PIPE)
    assert done.returncode == (2 if closed == "stdout" else 0), done.stderr
    assert b"Traceback" not in done.stderr


def test_the_fields_of_a_config_are_all_tried():
    """Each config field needs a row, unless every value of it is valid: `harmless`."""
    harmless = {"init_from", "backbone_lr_scale", "eval_every", "checkpoint_every", "log_every"}
    harmless |= {"hyperrule_chose", "tried", "asked"}  # tljax writes them
    tried = " ".join(" ".join(map(str, argv)) for argv, _ in ROWS.values())
    untried = {name for name in base() if f"--config.{name}=" not in tried}
    assert untried <= harmless
