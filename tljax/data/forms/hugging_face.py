"""`hf:FOLDER` and `hf://datasets/OWNER/NAME`: data of Hugging Face's library `datasets`.

FOLDER is what `save_to_disk` wrote, or holds Parquet or Arrow files. The library is not needed.
Splits are called as folders of splits may be; `?train=`, `?val=` and `?test=` choose others.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from tljax.console import warn_once
from tljax.data.forms import hub
from tljax.data.forms.arrow import read_table
from tljax.data.forms.shards import Shard, list_below
from tljax.data.layout import split_of
from tljax.data.listing import shortened
from tljax.data.table.columns import Table
from tljax.data.table.spec import Spec
from tljax.errors import InputError, check_known, did_you_mean, printable
from tljax.files import parse_json

_SUFFIXES = (".parquet", ".arrow")
_NUMBERED = re.compile(r"-\d+-of-\d+$|[-_.]?\d+$")


def read(spec: Spec) -> Table:
    """Returns the table.

    Raises:
      InputError: The data cannot be found, fetched or read, or a choice fits nothing in it.
    """
    if spec.target.startswith("//"):
        repository, found = hub.find_files(hub.parse_address(spec))
        names = _of_config(spec, found)
        chosen = _choose_splits(spec, {name: _split_name(name) for name in names})
        files = hub.fetch(repository, list(chosen))
        shards = [Shard(files[name], name, split) for name, split in chosen.items()]
        return read_table(spec, shards)
    folder = spec.file
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist; check the path")
    features: dict[Path, Mapping[str, Any]] = {}
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        named = _saved_splits(folder)
        features = {place: _noted_features(place) for place in {(folder / n).parent for n in named}}
    else:
        found = list_below(folder, _SUFFIXES)
        if not found:
            raise InputError(
                f"{folder} holds no Parquet or Arrow files; if it is a folder of images, write"
                f" folder:{folder}, or csv: with the file that lists them"
            )
        named = {name: _split_name(name) for name in _of_config(spec, found)}
    chosen = _choose_splits(spec, named)
    shards = [Shard(folder / name, name, split) for name, split in chosen.items()]
    return read_table(spec, shards, features)


def _saved_splits(folder: Path) -> dict[str, str | None]:
    """The files that `save_to_disk` wrote, in their order, and the split of each."""
    if not (folder / "dataset_dict.json").is_file():
        return dict.fromkeys(_saved_files(folder))
    splits = _read_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(splits, list) or not splits or not all(_is_name(name) for name in splits):
        raise InputError(f"{folder / 'dataset_dict.json'} names no splits; save the data again")
    return {f"{name}/{file}": name for name in splits for file in _saved_files(folder / name)}


def _saved_files(folder: Path) -> list[str]:
    state = _read_json(folder / "state.json")
    files = state.get("_data_files")
    listed = files if isinstance(files, list) else []
    named = [file.get("filename") if isinstance(file, dict) else None for file in listed]
    names = [name for name in named if _is_name(name)]
    if not names or len(names) < len(named):
        raise InputError(f"{folder / 'state.json'} names no files; save the data again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{folder} holds a selection of its rows, as old versions of `datasets` saved it; load"
            " it and save it again with a newer one"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{folder / missing[0]} does not exist; copy or save the data again")
    return names


def _is_name(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and bool(name) and "/" not in name and name not in (".", "..")


def _noted_features(folder: Path) -> Mapping[str, Any]:
    info = folder / "dataset_info.json"
    features = _read_json(info).get("features") if info.is_file() else None
    return features if isinstance(features, dict) else {}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); copy or save the data again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what `save_to_disk` writes; copy or save the data again")
    return content


def _of_config(spec: Spec, names: Sequence[str]) -> list[str]:
    """The files of the chosen configuration; a folder is one, unless it is called like a split."""
    configs: dict[str, list[str]] = {}
    for name in names:
        first, slash, _ = name.partition("/")
        is_config = slash and first != "data" and (name.count("/") > 1 or split_of(first) is None)
        configs.setdefault(first if is_config else "", []).append(name)
    if spec.config is not None:
        if set(configs) == {""}:
            raise InputError(f"{spec} has no configurations; leave config={spec.config} out")
        check_known(f"configuration of {spec}", spec.config, filter(None, configs))
        return configs[spec.config]
    if len(configs) > 1:
        listed = [name for name in configs if name]
        raise InputError(
            f"{spec} has {len(configs)} configurations, {shortened(listed)}; choose one with"
            f" ?config={listed[0]}"
        )
    return next(iter(configs.values()))


def _split_name(path: str) -> str | None:
    """What the split of a file is called: by its name without a number, or else its folder's.

    Example:
      _split_name("data/train-00000-of-00002.parquet")  # "train"
    """
    *folders, name = path.split("/")
    stem = _NUMBERED.sub("", name.rpartition(".")[0])
    if stem and (split_of(stem) or not folders or folders == ["data"]):
        return stem
    return folders[-1] if folders and folders[-1] != "data" else stem or None


def _choose_splits(spec: Spec, named: Mapping[str, str | None]) -> dict[str, str | None]:
    """The files that are used, and whether each is for `train`, `val` or `test`."""
    names = list(dict.fromkeys(filter(None, named.values())))
    role_of: dict[str, str] = {}
    for role, name in spec.splits.items():
        if name not in names:
            raise InputError(
                f"{spec} has no split '{printable(name)}'{did_you_mean(name, names)}; it has"
                f" {printable(', '.join(names)) or 'none'}"
            )
        if name in role_of:
            raise InputError(f"{spec} has {name} as {role_of[name]} and as {role}; keep one")
        role_of[name] = role
    for name in names:
        role = split_of(name) or ""
        if role and name not in role_of and role not in spec.splits:
            if role in role_of.values():
                raise InputError(
                    f"{spec} has several splits for {role}; choose one with ?{role}={name}"
                )
            role_of[name] = role
    if not role_of:
        return dict.fromkeys(named)
    unused = [name for name in names if name not in role_of]
    if unused:
        warn_once(f"the splits {shortened(unused)} of {spec} are not used; name one with ?train=")
    return {file: role_of[name] for file, name in named.items() if name in role_of}
