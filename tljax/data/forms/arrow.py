"""Reads Parquet and Arrow files as one table of images, with what Hugging Face notes of its types.

Images are paths, or the bytes of image files: a binary column, or a struct of `bytes` and `path`.
Bytes are copied once, see `tljax.data.packed.pack`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tljax.console import warn_once
from tljax.data.forms.shards import Shard
from tljax.data.packed import ImageFile, Member
from tljax.data.packed.pack import Stored, pack
from tljax.data.table.columns import Chosen, Table, choose
from tljax.data.table.csv_file import image_at
from tljax.data.table.spec import USUAL, Spec
from tljax.errors import InputError, printable
from tljax.files import parse_json

if TYPE_CHECKING:
    import pyarrow

_LABELS = (*USUAL["label"], "labels")
_ROWS = 512  # that are read at once, with their images


@dataclass(frozen=True)
class _File:
    """An open file of a table."""

    shard: Shard
    schema: "pyarrow.Schema"

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of columns."""
        cells: dict[str, list[Any]] = {name: [] for name in names}
        for batch in self._batches(names):
            for name in names:
                cells[name] += batch.column(name).to_pylist()
        return cells

    def images(self, column: str) -> Iterator[Stored]:
        for batch in self._batches([column]):
            for value in batch.column(column).to_pylist():
                if isinstance(value, Mapping):
                    yield Stored(value.get("bytes"), value.get("path"))
                elif isinstance(value, bytes) or value is None:
                    yield Stored(value, None)
                else:
                    yield Stored(None, str(value))

    @property
    def _is_parquet(self) -> bool:
        return self.shard.file.suffix.lower() != ".arrow"

    def _batches(self, names: Sequence[str]) -> Iterator["pyarrow.RecordBatch"]:
        """The rows, in batches of bounded size.

        Raises:
          InputError: The file is damaged.
        """
        import pyarrow
        import pyarrow.parquet

        file = self.shard.file
        try:
            if self._is_parquet:
                with pyarrow.parquet.ParquetFile(file) as opened:
                    yield from opened.iter_batches(_ROWS, columns=list(names))
                return
            with pyarrow.memory_map(str(file)) as mapped, _arrow_reader(mapped) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, _ROWS):
                        yield batch.slice(start, _ROWS).select(list(names))
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(file, error) from error


def read_table(
    spec: Spec, shards: Sequence[Shard], features: Mapping[Path, Mapping[str, Any]] | None = None
) -> Table:
    """Returns the used columns of all files as one table.

    Args:
      spec: Of the data.
      shards: Its files.
      features: By folder, what Hugging Face notes of the columns of files that do not note it.

    Raises:
      InputError: A file cannot be read, or lacks a column; the images are of another type; or two
        files number the classes differently.
    """
    files = [_open(shard) for shard in shards]
    schema = files[0].schema
    noted = [_class_names(file, features or {}) for file in files]
    chosen = choose(
        spec,
        schema.names,
        [name for name in schema.names if _holds_images(schema.field(name).type)],
        {name for names in noted for name in names},
        _LABELS,
    )
    _check_types(spec, files, chosen)
    class_names = {
        name: classes
        for name in chosen.targets
        if (classes := _same_numbering(name, files, [names.get(name) for names in noted]))
    }
    cells: dict[str, list[Any]] = {name: [] for name in chosen.cells}
    images: list[ImageFile] = []
    names: list[str] = []
    places: list[str] = []
    splits: list[str] = []
    for file in files:
        for name, values in file.columns(chosen.cells).items():
            cells[name] += values
        stored = _stored(file, chosen.path)
        where = _places(file, len(stored), shards)
        for one, place in zip(stored, where, strict=True):
            if isinstance(one, str):
                folder = file.shard.file.parent
                images.append(image_at(folder, one, f"{place} of {spec.place}"))
                names.append(one)
            else:
                images.append(one)
                names.append(one.name)
        places += where
        splits += [file.shard.split or ""] * len(stored)
    named = splits if all(splits) else None
    return Table(
        spec.place, chosen, cells, images, names, places, named, class_names, spec.separator
    )


def _open(shard: Shard) -> _File:
    import pyarrow
    import pyarrow.parquet

    try:
        if shard.file.suffix.lower() == ".arrow":
            with pyarrow.memory_map(str(shard.file)) as mapped, _arrow_reader(mapped) as reader:
                return _File(shard, reader.schema)
        return _File(shard, pyarrow.parquet.read_schema(shard.file))
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shard.file, error) from error


def _arrow_reader(mapped: Any) -> Any:
    """A reader of either kind of Arrow file."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return _FileReader(pyarrow.ipc.open_file(mapped))


class _FileReader:
    """An Arrow file of the kind with random access, read in order."""

    def __init__(self, reader: Any):
        self._reader = reader
        self.schema = reader.schema

    def __enter__(self) -> "_FileReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return (self._reader.get_batch(i) for i in range(self._reader.num_record_batches))


def _damaged(file: Path, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "damaged")
    kind = "an Arrow" if file.suffix.lower() == ".arrow" else "a Parquet"
    return InputError(f"cannot read {file} as {kind} file ({why.rstrip('.')}); copy it again")


def _places(file: _File, count: int, shards: Sequence[Shard]) -> list[str]:
    where = f" of {file.shard.name}" if len(shards) > 1 else ""
    return [f"row {row}{where}" for row in range(1, count + 1)]


def _stored(file: _File, column: str) -> Sequence[Member | str]:
    """Where the images of a file are: parts of a copy, or paths."""
    if _holds_images(file.schema.field(column).type):
        return pack(file.shard.file, column, lambda: file.images(column))
    return ["" if path is None else path.strip() for path in file.columns([column])[column]]


def _holds_images(kind: Any) -> bool:
    """Whether a column's type is bytes, or Hugging Face's struct of bytes and a path."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def _check_types(spec: Spec, files: Sequence[_File], chosen: Chosen) -> None:
    import pyarrow.types as types

    first = files[0]
    for file in files:
        for name in (chosen.path, *chosen.cells):
            if name not in file.schema.names:
                raise InputError(
                    f"{file.shard.file} lacks the column '{name}', which {first.shard.name} has;"
                    " name files of one table"
                )
        kind = file.schema.field(chosen.path).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        texts = (types.is_string, types.is_large_string, types.is_string_view)
        if not (any(test(kind) for test in texts) or _holds_images(kind)):
            raise InputError(
                f"the column '{chosen.path}' of {spec.place} is of the type {kind}, but paths or"
                " the bytes of image files are wanted; name the images' column with ?image=COLUMN"
            )


def _features(schema: "pyarrow.Schema") -> Mapping[str, Any]:
    """What Hugging Face notes of the columns in a file; empty if it notes nothing."""
    try:
        noted = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(
    file: _File, features: Mapping[Path, Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """The names of the classes of each column of labels that are numbers, where they are noted."""
    found = _features(file.schema) or features.get(file.shard.file.parent, {})
    return {name: names for name in file.schema.names if (names := _names(found.get(name)))}


def _same_numbering(
    column: str, files: Sequence[_File], noted: Sequence[tuple[str, ...] | None]
) -> tuple[str, ...] | None:
    """The names of the classes of a column, which all files that note them number alike.

    Args:
      column: Of the labels.
      files: Of the table.
      noted: Of each file, the names of the classes in their order; None: it does not note them.

    Raises:
      InputError: A number stands for one class in one file, and for another in another one.
    """
    longest: tuple[str, ...] | None = None
    source = files[0]
    for file, names in zip(files, noted, strict=True):
        if longest is not None and names is not None and not _agree(longest, names):
            raise InputError(
                f"{file.shard.file} and {source.shard.file} number the classes of"
                f" '{printable(column)}' differently; write both with the same class names"
            )
        if names is not None and len(names) > len(longest or ()):
            longest, source = names, file
    without = [file for file, names in zip(files, noted, strict=True) if names is None]
    unnamed = [file for file in without if _holds_integers(file.schema.field(column).type)]
    if longest is not None and unnamed:
        warn_once(
            f"{len(unnamed):,} of the {len(files):,} files, e.g. {unnamed[0].shard.file}, do not"
            f" name the classes of '{printable(column)}': their numbers are taken for classes of"
            f" {source.shard.file}"
        )
    return longest


def _holds_integers(kind: Any) -> bool:
    """Whether a column's type is integers, or lists of them."""
    import pyarrow.types as types

    return types.is_integer(getattr(kind, "value_type", kind))


def _agree(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether a number of both stands for the same class; one of them may have further classes."""
    return all(name == other for name, other in zip(names, others, strict=False))


def _names(feature: Any) -> tuple[str, ...] | None:
    """The names of the classes of a `ClassLabel`, or of a sequence of them; None of others."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _names(feature.get("feature"))
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    return tuple(map(str, names)) or None
