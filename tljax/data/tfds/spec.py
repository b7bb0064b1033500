"""Parses the spec after `tfds:`, and finds the prepared folder that it names. A spec is one of

    NAME[/CONFIG][:VERSION]             as in TFDS; CONFIG and VERSION are optional
    package.module.Builder[/...][:...]  a user's builder, whose module is imported
    PATH or gs://BUCKET/PATH            a prepared folder, e.g. ~/data/mnist/3.0.1

optionally followed by `?` and choices, separated by commas: `train=`, `val=` and `test=` select
splits in TFDS's syntax, `image=` and `label=` features. The separator is no `&`, because a shell
would silently cut the spec off at an unquoted `&`.
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
_SYNTAX = "write tfds:NAME[/CONFIG][:VERSION][?train=SPLIT,val=SPLIT,test=SPLIT]"
_TARGET = re.compile(r"(?P<name>[\w.]+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
      target: The text before the `?`.
      name: The name of the data set, or the builder class with its module; None if `target` is a
        folder.
      config, version: None if not given. The version may contain stars, as in `3.*.*`.
      choices: The given choices; keys are from CHOICES.
    """

    target: str
    name: str | None
    config: str | None
    version: str | None
    choices: dict[str, str]

    @property
    def is_custom(self) -> bool:
        """Whether the spec names a builder class, whose module is then imported."""
        return self.name is not None and "." in self.name

    def __str__(self) -> str:
        return f"tfds:{self.target}"


def parse_spec(text: str) -> Spec:
    """Parses the text after `tfds:`.

    Raises:
      InputError: It is not a valid spec.
    """
    target, question, query = text.partition("?")
    choices: dict[str, str] = {}
    for choice in query.split(",") if question else ():
        key, equals, value = choice.partition("=")
        if not equals or not value:
            raise InputError(f"'{choice}' in tfds:{text} is not of the form KEY=VALUE; {_SYNTAX}")
        check_known(f"choice in tfds:{target}?", key, CHOICES)
        if key in choices:
            raise InputError(f"tfds:{text} chooses {key} twice; keep one of them")
        choices[key] = value
    if remote.is_address(target) or is_path(target):
        return Spec(target, None, None, None, choices)
    match = _TARGET.fullmatch(target)
    if match is None:
        raise InputError(f"'tfds:{text}' names no data set; {_SYNTAX}")
    return Spec(target, match["name"], match["config"], match["version"], choices)


def is_path(target: str) -> bool:
    """Whether the text after `tfds:` is the path of a prepared folder, not a name or an address."""
    return target.startswith(("/", "~", "."))


def data_folder(data_dir: str | None) -> str:
    """The folder of prepared data sets: `data_dir`, else TFDS_DATA_DIR, else TFDS's default."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(folder)


def find_prepared(spec: Spec, data_dir: str | None) -> str:
    """Returns the prepared folder, a path or an address, of the newest matching version.

    Imports no code of the data set, except a user's builder, to learn its name.

    Raises:
      InputError: The data set is not prepared.
    """
    if spec.name is None:
        folder = os.path.expanduser(spec.target)
        if remote.read_file(remote.join(folder, _INFO)) is None:
            raise InputError(
                f"{folder} is no prepared data set of TFDS: it holds no {_INFO}; give the folder of"
                " one version, e.g. ~/tensorflow_datasets/mnist/3.0.1"
            )
        return folder
    name = import_builder(spec).name if spec.is_custom else spec.name
    root = data_folder(data_dir)
    home = remote.join(root, name)
    entries = remote.list_folders(home)
    if not entries:
        raise _not_prepared(spec, root, data_dir, did_you_mean(name, remote.list_folders(root)))
    config = spec.config or ""
    if not spec.config and not _versions(entries):
        config = _default_config(spec, home, entries)
    versions = _versions(remote.list_folders(remote.join(home, config)))
    if not versions:
        configs = [entry for entry in entries if not _VERSION.fullmatch(entry)]
        raise _not_prepared(spec, root, data_dir, did_you_mean(config, configs))
    matching = [version for version in versions if _matches(version, spec.version)]
    if not matching:
        raise _not_prepared(spec, root, data_dir, f" (there is {', '.join(versions)})")
    return remote.join(home, config, matching[-1])


def encoded_records(text: str, split: str, data_dir: str | None) -> Any:
    """Returns the records of a split, with `image` left encoded; needs array_record shards.

    For builders that derive one data set from another.

    Args:
      text: The spec after `tfds:`, without choices.
      split: In TFDS's syntax.
      data_dir: The folder of prepared data sets; None: TFDS's default.

    Returns:
      A sequence of dicts, each of which is read at access.

    Raises:
      InputError: The data set is not prepared.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(find_prepared(parse_spec(text), data_dir))
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def import_builder(spec: Spec) -> Any:
    """Imports and returns the builder class that a custom spec names.

    Raises:
      InputError: There is no such module or class, or the class is no builder.
    """
    module, _, name = str(spec.name).rpartition(".")
    try:
        builder_class = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"cannot import the builder {spec.name} ({why}); check the name, and that Python finds"
            " the module, e.g. with its folder in PYTHONPATH"
        ) from error
    import tensorflow_datasets as tfds

    is_class = isinstance(builder_class, type)
    if not (is_class and issubclass(builder_class, tfds.core.DatasetBuilder)):
        raise InputError(f"{spec.name} is no builder of TFDS; name a tfds.core.DatasetBuilder")
    return builder_class


def _prepare_command(spec: Spec, data_dir: str | None) -> str:
    return f"tljax prepare {spec}" + (f" --data_dir {data_dir}" if data_dir else "")


def _default_config(spec: Spec, home: str, entries: list[str]) -> str:
    """The config to use if none is given: the builder's default, or the only one."""
    configs = [name for name in entries if _versions(remote.list_folders(remote.join(home, name)))]
    metadata = remote.read_file(remote.join(home, ".config", "metadata.json"))
    try:
        default = parse_json(metadata or b"{}").get("default_config_name")
    except (ValueError, AttributeError):
        default = None
    if default in configs:
        return str(default)
    if len(configs) > 1:
        raise InputError(
            f"{spec} is prepared in the configs {', '.join(configs)}; choose one, e.g."
            f" tfds:{spec.name}/{configs[0]}"
        )
    return configs[0] if configs else ""


def _versions(names: list[str]) -> list[str]:
    """The names that are versions, the newest last."""
    versions = filter(_VERSION.fullmatch, names)
    return sorted(versions, key=lambda version: [int(n) for n in version.split(".")])


def _matches(version: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    numbers, patterns = version.split("."), pattern.split(".")
    return len(patterns) == 3 and all(p in ("*", n) for n, p in zip(numbers, patterns, strict=True))


def _not_prepared(spec: Spec, root: str, data_dir: str | None, hint: str) -> InputError:
    if remote.is_address(root):
        remedy = (
            f"run `{_prepare_command(spec, 'FOLDER')}` and copy it: gcloud storage rsync -r FOLDER"
            f" {root}"
        )
    else:
        remedy = f"run `{_prepare_command(spec, data_dir)}`, or set data_dir to where it is"
    return InputError(f"{spec} is not prepared in {root}{hint}; {remedy}")
