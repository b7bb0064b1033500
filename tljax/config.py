"""The fields of every config, with their defaults, and how a config file is read.

A config file, like those in `configs/`, sets what it changes. It is a Python program, and reading
it runs it. How a run is trained is described by `tljax.training.TrainingOptions`, whose fields are
config fields too.
"""

import importlib.machinery
import itertools
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from tljax.errors import InputError, did_you_mean, printable
from tljax.training.options import TrainingOptions

_MOST_RUNS = 10_000  # of a sweep: more are an endless loop rather than a plan
_T = TypeVar("_T")


@dataclass(frozen=True)
class ExperimentFields:
    """The fields of a config that are not `tljax.training.TrainingOptions`."""

    # What to learn from.
    data: str = "embedded:digits"
    """`embedded:NAME`, `folder:PATH`, a table or `tfds:NAME[/CONFIG][:VERSION]`.

    A table is `csv:FILE`, `parquet:FILE`, `hf:FOLDER`, `hf://datasets/OWNER/NAME` or `wds:SHARDS`;
    its columns may be chosen (quote it): `?label=`, `?labels=` for several labels an image,
    `?numbers=`. Of `tfds:` the splits may be chosen, and the features `?image=` and `?label=`:
    'tfds:cifar10?train=train[:80%],val=train[80%:]'. Several, with commas between: tasks that share
    the trunk, each with a head of its own, whose images are mixed in every batch.
    """
    data_dir: str | None = None
    """Where `tfds:` data lies, local or gs://; None: TFDS's own folder."""
    train_size: int | None = None
    """Number of training images; None: all there are."""
    train_per_class: int | None = None
    """Number of training images of each class, instead of `train_size`."""
    val_fraction: float | None = None
    """Share of the training images to validate on, where the data has no validation split.

    0: none. None: a fifth, but 5,000 images at most.
    """
    data_seed: int | None = None
    """Seed that draws validation images, folds and `train_size`; None: `seed`."""
    folds: int | None = None
    """Number of folds of a cross-validation, which `tljax folds` runs; None: the data's own splits.

    Training and validation images are assigned to folds, stratified, and whole groups. The data's
    own test images, if it has any, are in none.
    """
    fold: int | None = None
    """Which of the `folds`, from 0, is tested on; training and validation images are the others."""

    # The network, and where its weights start.
    model: str = "resnet10_32"
    """A name of timm's that `tljax models` lists, or one of tljax's small networks."""
    init_from: str | None = None
    """Pretrained weights: a name that `tljax models` lists, a file, a folder or an address.

    A folder is a workdir of `tljax train`, or what `save_pretrained` wrote. Addresses are hf://,
    https:// and gs://; `hf://OWNER/REPO` is a whole repository.
    """
    init_key: str | None = None
    """Of a weights file that holds several networks, the one to read: what its names begin with.

    For example `student`, `model_ema` or `state_dict.encoder_q`; '': names without a prefix. None:
    the network that fits the model best and, of several, the averaged weights (`ema`, `teacher`).
    """
    accept_source: bool = False
    """Whether `init_from` may be a run that does not beat the naive baseline."""
    last_group: str | None = None
    """The block after which the network ends; None: its last one."""
    position_resampling: str | None = None
    """How position embeddings are resized: `antialiased_bicubic`, `bicubic` or `zoom`.

    None: as the library does it that the weights come from.
    """
    drop_path: float = 0.0
    """Stochastic depth: rate of the last block."""
    dtype: str = "float32"
    """Of the computation: `float32` or `bfloat16`."""
    remat: bool = False
    """Recomputes a block's inside for its gradient: less memory on an accelerator, more time."""
    lora_rank: int | None = None
    """LoRA, of a ViT: rank of the updates of its dense layers, which train with the head alone."""
    lora_alpha: float | None = None
    """LoRA: an update counts `lora_alpha` / `lora_rank` times; None: once."""
    lora_targets: str | None = None
    """LoRA: regex on the paths of the layers to adapt; None: attention and MLP."""

    # How images are prepared. None: as for the pretrained weights, else as for the model.
    image_size: int | None = None
    """Side in pixels."""
    normalisation: str | None = None
    """`imagenet`, `half`, `caffe`, or six numbers: means and deviations of R, G, B in [0, 1].

    With `channels`: or as many means, and then as many deviations, as there are channels.
    """
    interpolation: str | None = None
    """Of Pillow, e.g. `bilinear` or `bicubic`."""
    crop_ratio: float | None = None
    """In evaluation: the share of the side that the centre crop covers."""
    deep_images: str = "full_range"
    """How grey images with more than 8 bits, in files of any kind, are reduced to 8.

    `full_range`: 0 to 65,535 becomes 0 to 255. `own_range`: each image's smallest pixel becomes 0,
    its largest 255. With `channels`: the same of each channel by itself, colours of TIFFs included.
    """

    channels: int | None = None
    """Channels that every image of `folder:` and `csv:` must have, and keeps; None: RGB.

    Grey is 1, grey and alpha 2, RGBA 4; pages of a TIFF are channels. The first kernel is fitted.
    """

    # The plan: which groups move, and how fast.
    scenario: str = "fine_tune"
    """`feature_extraction`, `freeze_first`, `from_scratch`, `fine_tune` or `surgical`."""
    k: int | None = None
    """freeze_first, surgical: number of frozen groups at the input."""
    k_last: int | None = None
    """surgical: the last group, from 0, that trains."""
    init_k: int | None = None
    """Groups at the input that start from `init_from`, those above from random weights.

    None: all below the head.
    """
    backbone_lr_scale: float = 0.1
    """fine_tune: the backbone's multiple of `lr`."""
    layer_decay: float = 1.0
    """fine_tune: a further factor for each group of distance from the head."""
    lr_spread: float | None = None
    """fine_tune, instead of `layer_decay`: the head's rate divided by the input's, e.g. 100.

    Rates of the groups between are spread geometrically.
    """
    train: str = ".*"
    """Regex on parameter paths; what does not match is frozen. LoRA: `.*` is LoRA and the head."""
    statistics: str = "follow"
    """BatchNorm: `follow` (batch statistics where a group trains) or `stored`."""

    # A recipe in stages that ends with this plan; steps and epochs are those of all stages.
    stages: str | None = None
    """`lp_ft` or `gradual_unfreezing`."""
    probe_share: float | None = None
    """lp_ft: the probe's share of the steps; None: half."""
    probe_lr: float | None = None
    """lp_ft: the probe's peak learning rate; None: `lr`."""
    groups_per_stage: int | None = None
    """gradual_unfreezing: groups that each stage adds; None: one."""

    # Rules that set fields from the data.
    hyperrule: str | None = None
    """A rule sets the fields that neither config nor command line set: `default` or `bit`.

    `default`: see `tljax.experiment.default_rule`. `bit`: BiT-HyperRule.
    """
    hyperrule_keeps: tuple[str, ...] = ()
    """Further fields that the rule leaves as they are; overrides are added to it."""
    hyperrule_chose: tuple[str, ...] = ()
    """What the rule chose and why; it is written there."""
    trial_lr: tuple[float, ...] = ()
    """Peak learning rates that are tried before the run, on its training images out of fold.

    With `wise_ft` and without validation images. The best of them, and of the places 0 and 1
    on the line, become `lr` and `wise_ft_alpha`; see `tljax.training.trial`. (): no trial.
    """
    tried: tuple[str, ...] = ()
    """What the trial chose and why; it is written there."""
    asked: tuple[str, ...] = ()
    """The fields that the trial settled, as they were before it, in JSON; it is written there."""


_SCHEMAS = (ExperimentFields, TrainingOptions)
_FIELDS = {field.name: field for schema in _SCHEMAS for field in fields(schema)}


def _may_be_none(name: str) -> bool:
    return name not in _FIELDS or _FIELDS[name].default is None


def base() -> ml_collections.ConfigDict:
    """A new config: the fields of `ExperimentFields` and `TrainingOptions`, with their defaults.

    It is locked: setting a field that does not exist is an error. Fields whose default is None are
    typed, so that `--config.x=v` is checked.
    """
    config = ml_collections.ConfigDict()
    for schema in _SCHEMAS:
        hints = get_type_hints(schema)
        for field in fields(schema):
            if field.default is None:  # of type `t | None`
                kind = get_args(hints[field.name])[0]
                config[field.name] = config_dict.placeholder(kind)
            else:
                config[field.name] = field.default
    return config.lock()


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Reads a config file and applies overrides. The file is a program, which is run.

    Args:
      path: a Python file with `get_config(arg)`, or a name of `config_files`; `FILE:ARG` passes an
        argument to it.
      overrides: `--config.FIELD=VALUE`, as on a command line; `None` unsets a field.

    Raises:
      InputError: if the file is missing or broken, a field does not exist, or a value does not fit.
    """
    file, argument = _find(path)
    return _config(_module(file), file, argument, overrides)


def load_sweep(
    path: str, overrides: Sequence[str] = ()
) -> tuple[ml_collections.ConfigDict, list[dict[str, Any]]]:
    """Reads a config file with a `sweep()`, and applies overrides.

    Args:
      path: a Python file with `get_config(arg)` and `sweep(arg)`, which yields a dict
        {field: value} for each run, or a name of `config_files`. `FILE:ARG` passes an argument to
        both.
      overrides: for every run.

    Returns:
      (config, runs): for each run the fields that it sets in the config.

    Raises:
      InputError: as `load`; or if there is no sweep, or it yields something else than dicts,
        unknown fields, values of the wrong type, no run, the same run twice, or a field that is
        overridden as well.
    """
    file, argument = _find(path)
    module = _module(file)
    config = _config(module, file, argument, overrides)
    if not hasattr(module, "sweep"):
        raise InputError(
            f"the config file '{file}' has no sweep(); add one that yields a"
            " dict of fields for each run, see configs/sweep_lr_k.py"
        )
    given = () if argument is None else (argument,)
    yielded = _call(file, lambda: list(itertools.islice(module.sweep(*given), _MOST_RUNS + 1)))
    if not 0 < len(yielded) <= _MOST_RUNS:
        count = f"more than {_MOST_RUNS:,}" if yielded else "no"
        raise InputError(f"sweep() of {file} yields {count} runs; change it")
    fixed = overridden(overrides)
    runs: dict[str, dict[str, Any]] = {}
    for number, values in enumerate(yielded, 1):
        run = _values(config, values, f"run {number} of sweep() in {file}")
        if both := sorted(fixed & run.keys()):
            raise InputError(
                f"sweep() of {file} sets {both[0]}, and so does --config.{both[0]}; leave one out"
            )
        if repr(run) in runs:
            raise InputError(
                f"run {number} of sweep() in {file}, {printable(run)}, repeats an earlier one;"
                " leave it out"
            )
        runs[repr(run)] = run
    return config, list(runs.values())


def _values(config: ml_collections.ConfigDict, values: object, where: str) -> dict[str, Any]:
    """A run's values, with the fields' types and in their order."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is a {type(values).__name__}, not a dict of fields; change it")
    set_ = config.copy_and_resolve_references()
    for name, value in values.items():
        if not isinstance(name, str) or name not in config:
            hint = did_you_mean(str(name), config.keys())
            raise InputError(
                f"{where} sets '{printable(name)}', which is no config field{hint}; the fields are"
                " listed in tljax.config"
            )
        try:
            if value is None and not _may_be_none(name):
                raise TypeError
            set_[name] = value.item() if isinstance(value, np.generic) else value
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{where} sets {name} to {printable(repr(value))}, which is not of its type;"
                " change it"
            ) from None
    return {name: set_[name] for name in base() if name in values}


def config_files() -> dict[str, Path]:
    """Returns the config files that come with tljax, by name: `fine_tune`, `recipes/lora`, ..."""
    folder = Path(__file__).parent / "configs"  # in a wheel, see setup.py
    if not folder.is_dir():
        folder = Path(__file__).parents[1] / "configs"  # in a checkout
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


_OVERRIDE = re.compile(r"--?config\.([^=]+)")
_UNSET = re.compile(r"--?config\.([^=]+)=None")


def _config(
    module: Any, file: Path, argument: str | None, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
    config = complete(_call(file, lambda: module.get_config(argument)), str(file))
    words = _join_none(overrides)
    for word in words:
        _check_override(word, config, file)
    values = flags.FlagValues()
    argv = ["tljax", *(word for word in words if not _UNSET.fullmatch(word))]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)[1:]
    except (flags.Error, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"cannot set a config field: {error}; give a value of its type") from None
    if rest:
        raise InputError(f"unknown argument '{rest[0]}'; overrides look like --config.lr=0.03")
    last = {match[1]: word for word in words if (match := _OVERRIDE.match(word))}
    for name, word in last.items():
        if _UNSET.fullmatch(word):
            values.config[name] = None
    return kept_by_rule(values.config, last)


def overridden(overrides: Iterable[str]) -> set[str]:
    """The names of the fields that `--config.FIELD=VALUE` arguments set."""
    return {match[1] for word in overrides if (match := _OVERRIDE.match(word))}


def _join_none(overrides: Sequence[str]) -> list[str]:
    """The overrides with `--config.FIELD None`, in two words, as `--config.FIELD=None`."""
    words: list[str] = []
    for word in overrides:
        if word == "None" and words and _OVERRIDE.fullmatch(words[-1]):
            words[-1] += "=None"
        else:
            words.append(word)
    return words


def _check_override(word: str, config: ml_collections.ConfigDict, file: Path) -> None:
    """Raises InputError if a word names no field, or unsets a field that always has a value."""
    match = _OVERRIDE.match(word)
    if word.startswith("-") and not match and not re.match(r"-[\d.]", word):  # a number
        raise InputError(f"unknown argument '{word}'; overrides look like --config.lr=0.03")
    if match and match[1] not in config:
        raise InputError(
            f"there is no config field '{match[1]}'{did_you_mean(match[1], config.keys())};"
            f" the fields are listed in {file} and in tljax.config"
        )
    if match and _UNSET.fullmatch(word) and not _may_be_none(match[1]):
        raise InputError(
            f"--config.{match[1]} is None, but this field always has a value; leave it out, or give"
            f" one, such as its default {_FIELDS[match[1]].default!r}"
        )


def kept_by_rule(
    config: ml_collections.ConfigDict, names: Iterable[str]
) -> ml_collections.ConfigDict:
    """The config itself; its hyperrule, if it has one, will not change the fields `names`."""
    if config.hyperrule is not None:
        config.hyperrule_keeps = tuple(sorted({*config.hyperrule_keeps, *names}))
    return config


class _Loader(importlib.machinery.SourceFileLoader):
    """Writes no compiled file into the user's folder."""

    def set_data(self, *_: object, **__: object) -> None:
        pass


def _find(path: str) -> tuple[Path, str | None]:
    """The file and the argument of `FILE`, `NAME`, `FILE:ARG` or `NAME:ARG`."""
    name, _, argument = path.partition(":")
    file = Path(name)
    if not (file.is_file() and file.suffix in importlib.machinery.SOURCE_SUFFIXES):
        named = config_files()
        if name in named:
            file = named[name]
        elif file.is_file():
            raise InputError(f"'{file}' is not a Python file; give a config file, see configs/")
        else:
            hint = did_you_mean(name.removeprefix("configs/").removesuffix(".py"), named)
            raise InputError(
                f"there is no config file '{file}'{hint}; give the path of one, or one of the names"
                f" {', '.join(named)}"
            )
    return file, argument or None


def _module(file: Path) -> Any:
    """Runs a config file and returns the module that it defines."""
    loader = _Loader("tljax_config_file", str(file))
    module = types.ModuleType(loader.name)
    _call(file, lambda: loader.exec_module(module))
    return module


def _call(file: Path, function: Callable[[], _T]) -> _T:
    """Calls a function of a config file; whatever it raises becomes an InputError."""
    try:
        return function()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"the config file '{file}' fails with {type(error).__name__}: {reason}; fix the file"
        ) from error


def complete(
    config: object, where: str, remedy: str = "begin with tljax.config.base()"
) -> ml_collections.ConfigDict:
    """The config itself; InputError unless it has every field of `base`, of its type."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{where} gives a {type(config).__name__}, not a config; see configs/")
    if missing := sorted(set(base()) - set(config)):
        raise InputError(f"{where} lacks the field {missing[0]}; {remedy}")
    typed = base()
    for name in typed:
        try:
            if config[name] is None and not _may_be_none(name):
                raise TypeError
            typed[name] = config[name]
        except (TypeError, OverflowError):
            value = printable(repr(config[name]))
            raise InputError(
                f"{where} sets {name} to {value}, which is not of its type; change it"
            ) from None
    return config
