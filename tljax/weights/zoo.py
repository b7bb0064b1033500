"""The weights known by name: a table (`zoo.csv`) with a source for every figure in it."""

import csv
import fnmatch
import functools
from dataclasses import dataclass
from importlib import resources

from tljax.errors import InputError, did_you_mean
from tljax.models import Preprocessing


@dataclass(frozen=True)
class ZooEntry:
    """One row of the table; None or an empty string where no source gives the figure.

    Attributes:
      name: as in the field, e.g. `vit_small_patch14_dinov2.lvd142m`.
      model: a key of `tljax.models.MODELS`.
      address: of the file, as `addresses.fetch_file` takes it.
      sha256: leading hex digits of the file's digest; md5: its whole MD5.
      licence: of the weights.
      preprocessing: with which the weights were trained or published.
      num_classes: of its head; 0 for none.
      parameters: number of them in the whole network, head included.
      gflops: 1e9 floating-point operations of a forward pass of one image; a multiply-add counts as
        two.
      trained_on: short names of the data sets.
      top1: published ImageNet-1k validation accuracy, in percent, at this preprocessing.
      source: where these figures come from.
    """

    name: str
    model: str
    address: str
    sha256: str
    md5: str
    licence: str
    preprocessing: Preprocessing
    num_classes: int
    parameters: int
    gflops: float
    trained_on: str
    top1: float | None
    source: str


@functools.cache
def entries() -> dict[str, ZooEntry]:
    """Returns the whole table, by name."""
    text = resources.files(__package__).joinpath("zoo.csv").read_text(encoding="utf-8")
    return {row["name"]: _entry(row) for row in csv.DictReader(text.splitlines())}


def find(pattern: str) -> list[ZooEntry]:
    """Returns the entries whose name contains `pattern` or matches it as a shell pattern.

        find("dinov2")
        find("vit_*dinov2*")  # the whole name, whatever the case

    Raises:
      InputError: if nothing matches.
    """
    known, wanted = entries(), pattern.lower()
    found = [
        entry
        for name, entry in known.items()
        if wanted in name.lower() or fnmatch.fnmatchcase(name.lower(), wanted)
    ]
    if not found:
        raise InputError(
            f"no pretrained weights have a name like '{pattern}'{did_you_mean(pattern, known)};"
            " `tljax models` lists all names"
        )
    return found


def _entry(row: dict[str, str]) -> ZooEntry:
    def numbers(text: str) -> tuple[float, ...]:
        return tuple(float(word) for word in text.split())

    return ZooEntry(
        name=row["name"],
        model=row["model"],
        address=row["address"],
        sha256=row["sha256"],
        md5=row["md5"],
        licence=row["licence"],
        preprocessing=Preprocessing(
            int(row["image_size"]),
            numbers(row["mean"]),
            numbers(row["std"]),
            row["interpolation"],
            float(row["crop_ratio"]),
        ),
        num_classes=int(row["num_classes"]),
        parameters=int(row["parameters"]),
        gflops=float(row["gflops"]),
        trained_on=row["trained_on"],
        top1=float(row["top1"]) if row["top1"] else None,
        source=row["source"],
    )
