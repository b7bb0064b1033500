"""What stands after `tfds:`, and the prepared folder that it means.

    NAME[/CONFIG][:VERSION]             as TFDS writes it; CONFIG and VERSION may be left out
    package.module.Builder[/...][:...]  a builder of one's own, whose module is imported
    PATH or gs://BUCKET/PATH            a prepared folder itself, e.g. ~/data/mnist/3.0.1

and after that, if need be, `?` and choices, separated by commas: `train=`, `val=` and `test=` name
splits in TFDS's own syntax, `image=` and `label=` features. A comma, because an `&` that somebody
forgot to quote would make a shell run another experiment without a word.
"""

import importlib
import os
import re
from dataclasses import dataclass
from typing import Any

from tljax.data import remote
from tljax.errors import InputError, check_known, did_you_mean
from tljax.files import parse_json

CHOICES = ("train", "val", "test", "image", "label")
_INFO = "dataset_info.json"
_LOOKS = "write tfds:NAME[/CONFIG][:VERSION][?train=SPLIT,val=SPLIT,test=SPLIT]"
_TARGET = re.compile(r"(?P<name>[\w.]+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Spec:
    """A data set, and what is chosen of it.

    Attributes:
      target: What stands before the `?`.
      name: Of the data set, or of the builder's class with its module; None: `target` is a folder.
      config, version: None: not given. The version may have stars, as in `3.*.*`.
      choices: By keys of CHOICES; what is not chosen is absent.
    """

    target: str
    name: str | None
    config: str | None
    version: str | None
    choices: dict[str, str]

    @property
    def is_custom(self) -> bool:
        """Whether the user named a class, and by that its module to be imported."""
        return self.name is not None and "." in self.name

    def __str__(self) -> str:
        return f"tfds:{self.target}"


def parse(text: str) -> Spec:
    """The spec that stands after `tfds:`.

    Raises:
      InputError: It is not one.
    """
    target, question, query = text.partition("?")
    choices: dict[str, str] = {}
    for choice in query.split(",") if question else ():
        key, equals, value = choice.partition("=")
        if not equals or not value:
            raise InputError(f"'{choice}' in tfds:{text} is no choice; {_LOOKS}")
        check_known(f"choice in tfds:{target}?", key, CHOICES)
        if key in choices:
            raise InputError(f"tfds:{text} chooses {key} twice; keep one of them")
        choices[key] = value
    if remote.is_address(target) or target.startswith(("/", "~", ".")):
        return Spec(target, None, None, None, choices)
    match = _TARGET.fullmatch(target)
    if match is None:
        raise InputError(f"'tfds:{text}' names no data set; {_LOOKS}")
    return Spec(target, match["name"], match["config"], match["version"], choices)


def data_folder(data_dir: str | None) -> str:
    """Where prepared data sets lie: `data_dir`, else TFDS_DATA_DIR, else TFDS's own default."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(folder)


def find(spec: Spec, data_dir: str | None) -> str:
    """The prepared folder, a path or an address: the newest version that fits.

    No code of the data set is imported, but for the name of a custom builder.

    Raises:
      InputError: It is not there.
    """
    if spec.name is None:
        folder = os.path.expanduser(spec.target)
        if remote.read(remote.join(folder, _INFO)) is None:
            raise InputError(
                f"{folder} is no prepared data set of TFDS: it holds no {_INFO}; give the folder of"
                " one version, e.g. ~/tensorflow_datasets/mnist/3.0.1"
            )
        return folder
    name = builder_class(spec).name if spec.is_custom else spec.name
    root = data_folder(data_dir)
    home = remote.join(root, name)
    entries = remote.folders(home)
    if not entries:
        raise _not_prepared(spec, root, data_dir, did_you_mean(name, remote.folders(root)))
    config = spec.config or ""
    if not spec.config and not _versions(entries):
        config = _default_config(spec, home, entries)
    versions = _versions(remote.folders(remote.join(home, config)))
    if not versions:
        configs = [entry for entry in entries if not _VERSION.fullmatch(entry)]
        raise _not_prepared(spec, root, data_dir, did_you_mean(config, configs))
    fitting = [version for version in versions if _fits(version, spec.version)]
    if not fitting:
        raise _not_prepared(spec, root, data_dir, f" (there is {', '.join(versions)})")
    return remote.join(home, config, fitting[-1])


def encoded_records(text: str, split: str, data_dir: str | None) -> Any:
    """The records of a split of a prepared array_record set, whose `image` is left encoded.

    For builders that derive one data set from another.

    Args:
      text: What stands after `tfds:`, without choices.
      split: In TFDS's syntax.
      data_dir: Where prepared data sets lie; None: TFDS's own default.

    Returns:
      A sequence of dicts, which are read when they are asked for.

    Raises:
      InputError: It is not there.
    """
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(find(parse(text), data_dir))
    return source.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def builder_class(spec: Spec) -> Any:
    """The builder class that a custom spec names; its module is imported.

    Raises:
      InputError: There is no such module or class, or it is no builder.
    """
    module, _, name = str(spec.name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"cannot import the builder {spec.name} ({why}); give the module as Python finds it,"
            " e.g. with its folder in PYTHONPATH"
        ) from error
    import tensorflow_datasets as tfds

    if not (isinstance(found, type) and issubclass(found, tfds.core.DatasetBuilder)):
        raise InputError(f"{spec.name} is no builder of TFDS; name a tfds.core.DatasetBuilder")
    return found


def prepare_command(spec: Spec, data_dir: str | None) -> str:
    """The command that prepares it."""
    return f"tljax prepare {spec}" + (f" --data_dir {data_dir}" if data_dir else "")


def _default_config(spec: Spec, home: str, entries: list[str]) -> str:
    """The config that is meant where none is given: the builder's default, or the only one."""
    configs = [name for name in entries if _versions(remote.folders(remote.join(home, name)))]
    try:
        default = parse_json(remote.read(remote.join(home, ".config", "metadata.json")) or b"{}")
        chosen = default.get("default_config_name")
    except (ValueError, AttributeError):
        chosen = None
    if chosen in configs:
        return str(chosen)
    if len(configs) > 1:
        raise InputError(
            f"{spec} is prepared in the configs {', '.join(configs)}; write one, e.g."
            f" tfds:{spec.name}/{configs[0]}"
        )
    return configs[0] if configs else ""


def _versions(names: list[str]) -> list[str]:
    """Those names that are versions, the newest last."""
    versions = filter(_VERSION.fullmatch, names)
    return sorted(versions, key=lambda version: [int(n) for n in version.split(".")])


def _fits(version: str, wanted: str | None) -> bool:
    if wanted is None:
        return True
    pairs = list(zip(version.split("."), wanted.split("."), strict=False))
    return len(wanted.split(".")) == 3 and all(w in ("*", v) for v, w in pairs)


def _not_prepared(spec: Spec, root: str, data_dir: str | None, hint: str) -> InputError:
    if remote.is_address(root):
        remedy = (
            f"run `{prepare_command(spec, 'FOLDER')}` and copy it: gcloud storage rsync -r FOLDER"
            f" {root}"
        )
    else:
        remedy = f"run `{prepare_command(spec, data_dir)}`, or set data_dir to where it is"
    return InputError(f"{spec} is not prepared in {root}{hint}; {remedy}")
