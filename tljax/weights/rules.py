"""Renames tensors by tables of rules, which are checked on both sides and work in both directions.

A family is one table of rules. A rule says which tensors of the source make which
parameters of the model, under names with numbered places:

    Rule("blocks.{i}.attn.qkv.weight", "block{i}/attn/qkv/kernel", linear)
    Rule("block{s+1}/unit{b+1:02}/a/kernel", "layer{s+1}_{b}/...", same)

`{i}` stands for a number that is the same on both sides, `{i+1}` for that number plus one, `{i:02}`
for one of at least two digits. Every transform has its inverse, so that the same table imports and
exports.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax import traverse_util

from tljax.errors import InputError

Arrays = Sequence[np.ndarray]

_PLACE = re.compile(r"\{(\w+?)(?:\+(\d+))?(?::0(\d+))?\}")

# Axes whose length may differ from the model's: classes, positions, input channels. `fitting`
# adapts the last two; the plan decides about the head.
_FREE_AXES = {
    "head/kernel": -1,
    "head/bias": -1,
    "embed/pos_embed": 1,
    "embed/patch/kernel": 2,
    "stem/conv/kernel": 2,
}
_SHOWN = 12  # faults that an error message lists


@dataclass(frozen=True)
class Transform:
    """From source tensors to parameters, and back; one array for each name in and out."""

    forward: Callable[[Arrays], Arrays]
    backward: Callable[[Arrays], Arrays]


def each(forward: Callable[..., np.ndarray], backward: Callable[..., np.ndarray]) -> Transform:
    """A transform of one array."""
    return Transform(lambda arrays: [forward(arrays[0])], lambda arrays: [backward(arrays[0])])


same = each(lambda x: x, lambda x: x)
# PyTorch keeps (out, in) and (out, in, h, w); Flax (in, out) and (h, w, in, out).
linear = each(lambda x: _axes(x, 2).T, lambda x: _axes(x, 2).T)
convolution = each(
    lambda x: _axes(x, 4).transpose(2, 3, 1, 0), lambda x: _axes(x, 4).transpose(3, 2, 0, 1)
)


@dataclass(frozen=True)
class Rule:
    """Source names -> parameter paths (without their collection), and how to convert them."""

    sources: str | tuple[str, ...]
    targets: str | tuple[str, ...]
    transform: Transform = same


@dataclass(frozen=True)
class Family:
    """One way of naming the tensors of one kind of network.

    Attributes:
      name: for messages and metadata, e.g. `timm ViT`.
      accepts: whether a model is of this kind.
      rules: its table; a function of the model, since some tables depend on its heads or options.
        None: the name of every tensor is the path of its parameter.
      ignored: regexes on whole source names of tensors that are left out on purpose.
      before_head: regexes on whole source names of layers between the network and its old head,
        which our model lacks: without them the head cannot be kept.
      spellings: (regex, replacement) pairs, applied in order to the names in a file and in the
        rules before they are compared, so that different names of one tensor agree.
      resampling: how the family's own code resamples position embeddings, see `fitting`.
    """

    name: str
    accepts: Callable[[Any], bool]
    rules: Callable[[Any], Sequence[Rule]] | None
    ignored: tuple[str, ...] = ()
    before_head: tuple[str, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    resampling: str = "antialiased_bicubic"


@dataclass(frozen=True)
class Assignment:
    """One rule with its numbers filled in."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    transform: Transform


def spelled(family: Family, name: str) -> str:
    """Returns a name in the family's one spelling."""
    for regex, replacement in family.spellings:
        name = re.sub(regex, replacement, name)
    return name


def assignments(family: Family, model: Any, paths: Sequence[str]) -> list[Assignment]:
    """Returns which source tensors make which parameters at `paths`, each exactly once.

    Raises:
      ValueError: if the table has no rule, or several, for a path: the table is wrong.
    """
    if family.rules is None:
        return [Assignment((path,), (path,), same) for path in paths]
    table = [
        (
            rule,
            tuple(map(_template, _names(rule.sources))),
            tuple(map(_template, _names(rule.targets))),
        )
        for rule in family.rules(model)
    ]
    found: dict[str, Assignment] = {}
    for path in paths:
        matches = [
            (rule, sources, targets, numbers)
            for rule, sources, targets in table
            for target in targets
            if (numbers := target.match(path)) is not None
        ]
        if len(matches) != 1:
            raise ValueError(f"{len(matches)} rules of {family.name} make '{path}'")
        rule, sources, targets, numbers = matches[0]
        found[path] = Assignment(
            tuple(source.fill(numbers) for source in sources),
            tuple(target.fill(numbers) for target in targets),
            rule.transform,
        )
    return list(dict.fromkeys(found.values()))


def spelled_assignments(family: Family, model: Any, paths: Sequence[str]) -> list[Assignment]:
    """Returns the assignments with the sources' names in the family's one spelling."""
    return [
        replace(a, sources=tuple(spelled(family, source) for source in a.sources))
        for a in assignments(family, model, paths)
    ]


def convert(
    family: Family,
    model: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    origin: str,
) -> dict[str, np.ndarray]:
    """Returns the model's parameters and statistics, by path, from the tensors of a weights file.

    Every source tensor is used once or ignored by name, and every path is filled once. From a file
    without a head there is no `head/...`; a head keeps its own number of classes.

    Args:
      family: the naming scheme of the tensors.
      model: the whole model, with a head.
      shapes: of its variables, by path without the collection.
      tensors: of the file, by source name, without the prefix of wrappers (`unwrapping` finds it).
      origin: of the file, for error messages.

    Raises:
      InputError: with all mismatches together.
    """
    named = {spelled(family, name): array for name, array in tensors.items()}
    planned = spelled_assignments(family, model, list(shapes))
    if not any(source in named for a in planned if is_head(a) for source in a.sources):
        planned = [a for a in planned if not is_head(a)]
    filled: dict[str, np.ndarray] = {}
    counts = Counter(spelled(family, name) for name in tensors)
    faults = [f"{name} is there {n} times" for name, n in counts.items() if n > 1]
    for a in planned:
        if absent := [source for source in a.sources if source not in named]:
            faults += [f"{source} is missing" for source in absent]
            continue
        given = [np.asarray(named[source]) for source in a.sources]
        wanted = [shapes[target] for target in a.targets]
        try:
            made = [_float32(x) for x in _make(a, given, wanted)]
            filled |= zip(a.targets, made, strict=True)
        except (ValueError, IndexError, TypeError):  # TypeError: text, complex numbers
            faults.append(_shape_fault(a, given, wanted))
    used = {source for a in planned for source in a.sources}
    faults += [
        f"{name} {np.shape(array)} has no place in the model"
        for name, array in named.items()
        if name not in used and not any(re.fullmatch(regex, name) for regex in family.ignored)
    ]
    if not faults and filled.get("head/bias", np.zeros(0)).shape[0] != (
        filled["head/kernel"].shape[-1] if "head/kernel" in filled else 0
    ):
        faults.append("the head's bias and kernel have different numbers of classes")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise InputError(
            f"'{origin}' ({family.name} names) does not fit the model in {_places(len(faults))}:"
            f" {'; '.join(faults[:_SHOWN])}{more}; set model to the network that these weights are"
            " of, or fetch the file again"
        )
    return filled


def fits(a: Assignment, given: Sequence[tuple[int, ...]], shapes: Mapping[str, Any]) -> bool:
    """Returns whether tensors of these shapes make parameters of the model's `shapes`."""
    empty = [np.broadcast_to(np.float32(0), shape) for shape in given]
    try:
        _make(a, empty, [shapes[target] for target in a.targets])
    except (ValueError, IndexError, TypeError):
        return False
    return True


def source_shapes(a: Assignment, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns the shapes, by source name, of the tensors that make parameters of these shapes."""
    targets = [np.broadcast_to(np.float32(0), shapes[target]) for target in a.targets]
    return {
        name: array.shape
        for name, array in zip(a.sources, a.transform.backward(targets), strict=True)
    }


def _make(a: Assignment, given: Arrays, wanted: Sequence[tuple[int, ...]]) -> Arrays:
    """The parameters that tensors make; ValueError, IndexError or TypeError if they do not fit."""
    made = a.transform.forward(given)
    if not all(map(_fits, a.targets, (array.shape for array in made), wanted)):
        raise ValueError("other shapes")
    return made


def _float32(array: np.ndarray) -> np.ndarray:
    """Converts to float32 in C order, copying only if needed; TypeError for text and the like."""
    return array.astype(np.float32, order="C", casting="same_kind", copy=False)


def unconvert(family: Family, model: Any, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `convert`: tensors under the family's names from variables by path."""
    tensors: dict[str, np.ndarray] = {}
    for a in assignments(family, model, list(flat)):
        arrays = a.transform.backward([np.asarray(flat[target]) for target in a.targets])
        tensors |= {n: np.ascontiguousarray(x) for n, x in zip(a.sources, arrays, strict=True)}
    return tensors


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """{path without the collection: leaf} of `{"params": ..., "batch_stats": ...}`."""
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    return {path.split("/", 1)[1]: leaf for path, leaf in flat.items()}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: running means and variances are statistics, the rest parameters."""
    statistics = {"mean", "var"}
    tree = {
        f"{'batch_stats' if path.rsplit('/', 1)[-1] in statistics else 'params'}/{path}": leaf
        for path, leaf in flat.items()
    }
    return traverse_util.unflatten_dict(tree, sep="/")


@dataclass(frozen=True)
class _Template:
    """A name with places for numbers."""

    text: str

    def fill(self, numbers: Mapping[str, int]) -> str:
        return _PLACE.sub(
            lambda place: f"{numbers[place[1]] + int(place[2] or 0):0{int(place[3] or 1)}d}",
            self.text,
        )

    def match(self, name: str) -> dict[str, int] | None:
        """Returns the numbers at the places if `name` has this form."""
        if "{" not in self.text:  # fast: tables that list a whole network are long
            return {} if name == self.text else None
        found = self._regex.fullmatch(name)
        if not found:
            return None
        numbers = {
            place[1]: int(found[f"{place[1]}_{n}"]) - int(place[2] or 0)
            for n, place in enumerate(_PLACE.finditer(self.text))
        }
        return (
            numbers if self.fill(numbers) == name else None
        )  # False for a repeated place with two numbers, or leading zeros

    @functools.cached_property
    def _regex(self) -> re.Pattern:
        pattern, end = "", 0
        for n, place in enumerate(_PLACE.finditer(self.text)):
            pattern += re.escape(self.text[end : place.start()]) + rf"(?P<{place[1]}_{n}>\d+)"
            end = place.end()
        return re.compile(pattern + re.escape(self.text[end:]))


_template = functools.lru_cache(maxsize=None)(_Template)


def _places(number: int) -> str:
    return "1 place" if number == 1 else f"{number} places"


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def is_head(assignment: Assignment) -> bool:
    """Returns whether an assignment makes the head."""
    return any(target.startswith("head/") for target in assignment.targets)


def _fits(path: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    free = _FREE_AXES.get(path)
    skipped = None if free is None else free % len(wanted)
    return all(
        axis == skipped or a == b for axis, (a, b) in enumerate(zip(shape, wanted, strict=True))
    )


def _shape_fault(a: Assignment, given: Arrays, wanted: Sequence[tuple[int, ...]]) -> str:
    """Describes the shapes as in the file, which the user sees."""
    expected = source_shapes(a, dict(zip(a.targets, wanted, strict=True)))
    wrong = [
        f"{name} has shape {has.shape} instead of {expected[name]}"
        for name, has in zip(a.sources, given, strict=True)
        if has.shape != expected[name]
    ]
    kinds = [f"{name} holds {has.dtype}" for name, has in zip(a.sources, given, strict=True)]
    return "; ".join(wrong or kinds)


def _axes(array: np.ndarray, number: int) -> np.ndarray:
    if array.ndim != number:
        raise ValueError(f"{array.ndim} axes instead of {number}")
    return array
