"""The folds of a cross-validation, in `W/fold_0`, `W/fold_1`, ...

`W/folds.json` says how many there are, and which images are in each.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tljax.errors import InputError
from tljax.experiment.workdir import FOLDS, is_folds
from tljax.files import parse_json
from tljax.runs.workdir import write_atomically


@dataclass(frozen=True)
class Folds:
    """Which images are in which fold.

    Attributes:
      folds: their number.
      data_seed: that they were drawn with.
      sizes: number of images in each.
      images: a fingerprint of the images of each.
      grouped: whether the data has groups, which are whole in a fold.
    """

    folds: int
    data_seed: int
    sizes: tuple[int, ...]
    images: tuple[str, ...]
    grouped: bool

    @property
    def names(self) -> list[str]:
        """The folders of the runs."""
        return [f"fold_{number}" for number in range(self.folds)]


def read_folds(workdir: Path) -> Folds | None:
    """Reads which folds a workdir of `tljax folds` has; None if it is no such workdir.

    Raises:
      InputError: if its `folds.json` is damaged.
    """
    path = workdir / FOLDS
    if not is_folds(workdir):
        return None
    try:
        content = parse_json(path.read_bytes())
        found = Folds(**{field.name: content[field.name] for field in fields(Folds)})
        found = replace(found, sizes=tuple(found.sizes), images=tuple(found.images))
        if not len(found.sizes) == len(found.images) == found.folds >= 2:
            raise ValueError("its lists do not have an item for each fold")
        if not all(isinstance(size, int) for size in (*found.sizes, found.data_seed)):
            raise ValueError("its sizes are no numbers")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"cannot read {path} ({error}); restore it, or delete it and run the same `tljax folds`"
            " command again"
        ) from None
    return found


def write_folds(workdir: Path, folds: Folds, results: dict[str, Any] | None = None) -> None:
    """Writes `folds.json`: the folds, and what came out of them."""
    content = asdict(folds) | (results or {})
    write_atomically(workdir / FOLDS, json.dumps(content, indent=2) + "\n")
