"""The fields of every config, with their defaults; a page under `configs/` sets what it changes."""

import importlib.machinery
import itertools
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_dict, config_flags

from tljax.errors import InputError, did_you_mean, printable

_MOST_RUNS = 10_000  # of a sweep: more are an endless loop rather than a plan
_T = TypeVar("_T")


def base() -> ml_collections.ConfigDict:
    """A new config, locked: setting a field that does not exist is an error.

    Fields whose default is None are typed, so that `--config.x=v` is checked.
    """
    config = ml_collections.ConfigDict()

    # What to learn from.
    # embedded:NAME, folder:PATH, or tfds:NAME[/CONFIG][:VERSION], where splits may be chosen (quote
    # it): 'tfds:cifar10?train=train[:80%],val=train[80%:]'; also ?image= and ?label= features.
    # Or several, with commas between: tasks that share the trunk, each with a head of its own,
    # whose images are mixed in every batch.
    config.data = "embedded:digits"
    config.data_dir = config_dict.placeholder(str)  # of tfds: data, local or gs://; None: TFDS's
    config.train_size = config_dict.placeholder(int)  # training images in all; None: all there are
    config.train_per_class = config_dict.placeholder(int)  # or so many of each class
    config.val_fraction = 0.2  # of the training images, where the data has no validation split
    # Of these two draws, so that runs of several seeds can share their images; None: seed.
    config.data_seed = config_dict.placeholder(int)

    # The network, and where its weights start.
    config.model = "resnet10_32"
    # A name that `tljax models` lists, a checkpoint file, hf://, https:// or gs:// address, or the
    # workdir of a run of `tljax train`.
    config.init_from = config_dict.placeholder(str)
    config.head_init = "zero"  # of the new head: zero, random, or pretrained (kept)
    config.last_group = config_dict.placeholder(str)  # the block to end after; None: the last
    # How position embeddings come to another image size: antialiased_bicubic, bicubic or zoom;
    # None: as the code that the checkpoint comes from does it.
    config.position_resampling = config_dict.placeholder(str)
    config.drop_path = 0.0  # stochastic depth rate of the last block
    config.dtype = "float32"  # of the computation: float32 or bfloat16
    # LoRA, of a ViT: the rank of the updates beside its dense layers, which train with the head
    # (`train` says otherwise) while all else is frozen; None: off. An update counts lora_alpha /
    # rank times, None: once. lora_targets: regex on the layers' paths; None: attention and MLP.
    config.lora_rank = config_dict.placeholder(int)
    config.lora_alpha = config_dict.placeholder(float)
    config.lora_targets = config_dict.placeholder(str)

    # What images look like to it. None: as the weights are used to, else as the model's.
    config.image_size = config_dict.placeholder(int)  # pixels
    # imagenet, half, caffe, or six numbers: means and deviations of R, G, B in [0, 1]
    config.normalisation = config_dict.placeholder(str)
    config.interpolation = config_dict.placeholder(str)  # of Pillow, e.g. bilinear or bicubic
    config.crop_ratio = config_dict.placeholder(float)  # evaluation: the crop's share of the side

    # The plan: which groups move, and how fast.
    # feature_extraction, freeze_first, from_scratch, fine_tune or surgical
    config.scenario = "fine_tune"
    config.k = config_dict.placeholder(int)  # freeze_first, surgical: groups frozen at the input
    config.k_last = config_dict.placeholder(int)  # surgical: the last group, from 0, that trains
    # Groups at the input that start from init_from, while those above them start from random
    # weights; None: all below the head.
    config.init_k = config_dict.placeholder(int)
    config.backbone_lr_scale = 0.1  # fine_tune: the backbone's multiple of lr
    config.layer_decay = 1.0  # fine_tune: a further factor for each group away from the head
    # fine_tune, instead of layer_decay: what the input's rate is divided by, and those of the
    # groups above it less and less, in equal factors, up to the head (100: as fastai does)
    config.lr_spread = config_dict.placeholder(float)
    # Regex on parameter paths; what does not match is frozen. With LoRA .* is its leaves and head.
    config.train = ".*"
    config.statistics = "follow"  # BatchNorm: follow (batch statistics where it trains) or stored

    # A recipe in stages that ends with this plan; steps and epochs are those of all stages.
    config.stages = config_dict.placeholder(str)  # lp_ft or gradual_unfreezing
    config.probe_share = config_dict.placeholder(float)  # lp_ft: of the steps; None: half
    config.probe_lr = config_dict.placeholder(float)  # lp_ft: peak rate of the probe; None: lr
    # gradual_unfreezing: groups that each stage adds; None: one
    config.groups_per_stage = config_dict.placeholder(int)

    # bit: numbers of BiT-HyperRule, by the number and the size of the training images, for the
    # fields below that neither the page nor the command line sets; config.json then shows them.
    config.hyperrule = config_dict.placeholder(str)
    config.hyperrule_keeps = ()  # further fields that it leaves as they are; also the overrides

    # How long, how fast.
    config.batch_size = 64
    config.epochs = 10.0
    config.steps = config_dict.placeholder(int)  # if set, instead of epochs
    config.optimizer = "sgd"  # sgd or adamw
    config.lr = 0.01
    config.schedule = "cosine"  # constant, cosine or step
    config.warmup = 0  # steps
    config.milestones = (0.3, 0.6, 0.9)  # schedule=step: a tenth at each of these shares
    config.momentum = 0.9
    config.weight_decay = 0.0
    config.decayed = ".*kernel"  # regex on parameter paths: what is decayed
    # L2-SP, in the place of weight decay: alpha pulls what trains back to its pretrained weights,
    # beta what is new, as the head is, to 0.
    config.l2_sp_alpha = 0.0
    config.l2_sp_beta = 0.0
    config.clip_norm = config_dict.placeholder(float)
    # The loss: share of a label spread over all classes; and balanced, if rare classes are to count
    # as much as common ones.
    config.label_smoothing = 0.0
    config.class_weights = config_dict.placeholder(str)
    # Decay of a moving average of what trains, which is then evaluated and kept; None: none.
    config.ema = config_dict.placeholder(float)
    # End after so many evaluations without a better one; the schedule stays that of all steps.
    # None: never.
    config.patience = config_dict.placeholder(int)

    # Parts that a step's batch goes through the network in, their gradients added up, for less
    # memory; a divisor of batch_size. None: as suits the backend.
    config.accumulate = config_dict.placeholder(int)
    # Compute a block's inside again for its gradient: less memory on an accelerator, more time.
    config.remat = False

    # Where the output of the leading frozen groups is kept, if images stay the same: memory,
    # disk (~/.cache/tljax/features), off; auto: disk, if it fits.
    config.cache = "auto"

    # What the images go through in training.
    # none; crop, of random size and place, resized; crop_flip; trivial: crop_flip, TrivialAugment;
    # or resize_crop_flip: as if resized to a square first, and a smaller one cut out at random
    config.augment = "crop_flip"
    # Draw so many augmented views of each image once, and keep what frozen groups make of them;
    # None: draw anew in every epoch.
    config.views = config_dict.placeholder(int)
    config.crop_area = (0.08, 1.0)  # smallest and largest share of the image that a crop covers
    # Mix each image, and its label, with another one's: alpha of the share's distribution, 0: off.
    # With both, each batch is mixed in one of the two ways.
    config.mixup = 0.0
    config.cutmix = 0.0
    config.sampling = "shuffled"  # or balanced: every class equally often
    config.num_workers = 0
    config.on_error = "fail"  # of an image that cannot be read; or skip, and name it in the result

    # What is kept.
    config.eval_every = config_dict.placeholder(int)  # steps; None: an epoch
    config.eval_dense = False  # also after 1, 2, 4, 8, ... steps up to there, to see the start
    config.checkpoint_every = config_dict.placeholder(int)  # steps; None: at every evaluation
    config.log_every = 10
    config.keep = 1

    # Devices: the batch is spread over all of them; weights and optimizer state are cut into as
    # many pieces as fsdp says. The axes' product is the number of devices, -1 what is left of it:
    # data:-1, fsdp:-1, data:4,fsdp:2
    config.mesh = "data:-1"

    config.seed = 0
    return config.lock()


def load(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config of a page, with overrides.

    Args:
      path: a Python file with `get_config(arg)`; `FILE:ARG` passes an argument to it.
      overrides: `--config.FIELD=VALUE`, as they stand on a command line.

    Raises:
      InputError: if the file is missing or broken, a field does not exist, or a value does not fit.
    """
    file, argument = _split(path)
    return _config(_page(file), file, argument, overrides)


def load_sweep(
    path: str, overrides: Sequence[str] = ()
) -> tuple[ml_collections.ConfigDict, list[dict[str, Any]]]:
    """The config of a page, with overrides, and what its `sweep()` sets in it, run by run.

    Args:
      path: a page that has a `sweep()` beside `get_config`; it yields a dict {field: value} for
        each run. `FILE:ARG` passes an argument to both.
      overrides: of every run.

    Returns:
      (config, runs): the values are those that the config's fields take, by name.

    Raises:
      InputError: as `load`, or if the page has no sweep, or it yields no dicts, unknown fields,
        values that do not fit, no run, the same run twice, or a field that is overridden as well.
    """
    file, argument = _split(path)
    page = _page(file)
    config = _config(page, file, argument, overrides)
    if not hasattr(page, "sweep"):
        raise InputError(
            f"the config file '{file}' has no sweep() beside get_config; add one that yields a"
            " dict of fields for each run, see configs/sweep_lr_k.py"
        )
    given = () if argument is None else (argument,)
    yielded = _ask(file, lambda: list(itertools.islice(page.sweep(*given), _MOST_RUNS + 1)))
    if not 0 < len(yielded) <= _MOST_RUNS:
        count = f"more than {_MOST_RUNS:,}" if yielded else "no"
        raise InputError(f"sweep() of {file} yields {count} runs; mend it")
    fixed = {match[1] for word in overrides if (match := _OVERRIDE.match(word))}
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
    """A run's values, of the fields' types and in the order of their names."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is a {type(values).__name__}, not a dict of fields; mend it")
    set_ = config.copy_and_resolve_references()
    for name, value in values.items():
        if not isinstance(name, str) or name not in config:
            hint = did_you_mean(str(name), config.keys())
            raise InputError(
                f"{where} sets '{printable(name)}', which is no config field{hint}; the fields are"
                " listed in tljax.config"
            )
        try:
            set_[name] = value.item() if isinstance(value, np.generic) else value
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{where} sets {name} to {printable(repr(value))}, which is not of its type; mend"
                " it"
            ) from None
    return {name: set_[name] for name in base() if name in values}


_OVERRIDE = re.compile(r"--?config\.([^=]+)")


def _config(
    page: Any, file: Path, argument: str | None, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
    config = complete(_ask(file, lambda: page.get_config(argument)), str(file))
    for word in overrides:
        match = _OVERRIDE.match(word)
        if word.startswith("-") and not match and not re.match(r"-[\d.]", word):  # a number
            raise InputError(f"unknown argument '{word}'; overrides look like --config.lr=0.03")
        if match and match[1] not in config:
            raise InputError(
                f"there is no config field '{match[1]}'{did_you_mean(match[1], config.keys())};"
                f" the fields are listed in {file} and in tljax.config"
            )
    values = flags.FlagValues()
    argv = ["tljax", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)[1:]
    except (flags.Error, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"cannot set a config field: {error}; give a value of its type") from None
    if rest:
        raise InputError(f"unknown argument '{rest[0]}'; overrides look like --config.lr=0.03")
    return kept_by_rule(values.config, [m[1] for m in map(_OVERRIDE.match, overrides) if m])


def kept_by_rule(
    config: ml_collections.ConfigDict, names: Iterable[str]
) -> ml_collections.ConfigDict:
    """The config itself; if it has a hyperrule, that leaves the fields `names` as they are."""
    if config.hyperrule is not None:
        config.hyperrule_keeps = tuple(sorted({*config.hyperrule_keeps, *names}))
    return config


class _Page(importlib.machinery.SourceFileLoader):
    """Leaves no compiled file beside the page, whose folder is the user's."""

    def set_data(self, *_: object, **__: object) -> None:
        pass


def _split(path: str) -> tuple[Path, str | None]:
    file, _, argument = path.partition(":")
    return Path(file), argument or None


def _page(file: Path) -> Any:
    """The module that a page is."""
    if not file.is_file():
        raise InputError(f"there is no config file '{file}'; give the path of one, see configs/")
    if file.suffix not in importlib.machinery.SOURCE_SUFFIXES:
        raise InputError(f"'{file}' is not a Python file; give a config page, see configs/")
    loader = _Page("tljax_config_page", str(file))
    page = types.ModuleType(loader.name)
    _ask(file, lambda: loader.exec_module(page))
    return page


def _ask(file: Path, question: Callable[[], _T]) -> _T:
    """What a page answers; whatever else it does is the user's to mend."""
    try:
        return question()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise InputError(
            f"the config file '{file}' fails with {type(error).__name__}: {reason}; mend the file"
        ) from error


def complete(config: object, where: str) -> ml_collections.ConfigDict:
    """The config itself, if it has every field of `base`, of its type; else InputError."""
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{where} gives a {type(config).__name__}, not a config; see configs/")
    if missing := sorted(set(base()) - set(config)):
        raise InputError(f"{where} lacks the field {missing[0]}; begin with tljax.config.base()")
    typed = base()
    for name in typed:
        try:
            typed[name] = config[name]
        except (TypeError, OverflowError):
            value = printable(repr(config[name]))
            raise InputError(
                f"{where} sets {name} to {value}, which is not of its type; mend it"
            ) from None
    return config
