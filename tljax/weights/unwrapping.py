"""Finds a network among the tensors of a file: behind which prefix, and what else is there.

Training scripts wrap the network (`module.`, `model.backbone.`), save a second one beside it
(averaged weights, a teacher), and replace its head. Wrappers are not known by their words: the
prefix is the one behind which most of the network's tensors are found, with the right shapes.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.errors import InputError
from tljax.weights import rules
from tljax.weights.rules import Assignment, Family, spelled

Tensors = Mapping[str, np.ndarray]

_SEPARATOR = re.compile(r"[./]")
# A part within a name that begins with _: PyTorch wraps single modules in such, e.g. torch.compile
# in `_orig_mod` and FSDP in `_fsdp_wrapped_module`.
_INNER_WRAPPER = re.compile(r"(?<=[./])_[^./]+[./]")
# A part of a name that says that the weights are averaged over training.
_AVERAGED = re.compile(r"(^|_)(ema|teacher|swa|averaged)($|_)", re.IGNORECASE)
_DEEPEST = 12  # parts of a prefix
_SHOWN = 8  # names that a message lists


@dataclass(frozen=True)
class Network:
    """A network that was found in a file.

    Attributes:
      family: the naming scheme of its tensors.
      tensors: its tensors by name without the prefix, with its head if that is complete; and those
        under the prefix that have no place in the network.
      notes: sentences for the user about what was chosen and left out: other networks, heads of
        another kind, states of an optimizer.
      why_headless: which tensors would make a head, and what was left out instead; empty if
        `tensors` has a head.
    """

    family: Family
    tensors: dict[str, np.ndarray]
    notes: tuple[str, ...]
    why_headless: str


def find_network(
    families: Sequence[Family],
    model: Any,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    origin: str,
    model_name: str,
    key: str | None = None,
) -> Network:
    """Finds a model's network among the tensors of a file.

    If several fit equally well, the one of averaged weights is taken: a part of its prefix is
    `ema`, `teacher`, `swa` or `averaged`, alone or joined to others with `_`.

    Args:
      families: the naming schemes that the file may use; of two that fit equally the first counts.
      model: the whole model, with a head.
      shapes: of its variables, by path without the collection.
      tensors: of the file, by name.
      origin: of the file, for messages.
      model_name: for messages.
      key: parts that the prefix must have, e.g. `student`; "": no prefix; None: any prefix.

    Raises:
      InputError: if there is no such network, or there are several and none is to be preferred.
    """
    below = _names_by_prefix(tensors)
    plans = [_plan(family, model, shapes) for family in families]
    candidates = _candidates(plans, _with_key(below, key, origin), tensors)
    if not candidates or candidates[0].share < 0.1:
        held, wanted = (len(candidates[0].names), candidates[0].plan.size) if candidates else (0, 0)
        first = ", ".join(sorted(tensors)[:3])
        ways = ", ".join(family.name for family in families)
        raise InputError(
            f"'{origin}' holds {f'only {held} of the {wanted}' if held else 'none of the'} tensors"
            f" of a {model_name} (under the names of {ways}, behind"
            f" {'any prefix' if key is None else f'init_key={key}'}); its first are {first}; set"
            " model to the network that these weights are of"
        )
    best, notes = _choose(candidates, tensors, origin)
    network, left_out = _split(best, below, tensors)
    if left_out:
        notes = (*notes, _left_out_note(left_out, best.prefix, origin))
    headless = best.plan.head_sources and best.plan.head_sources[0] not in {
        spelled(best.plan.family, name) for name in network
    }
    why = _why_headless(best.plan, left_out) if headless else ""
    return Network(best.plan.family, network, notes, why)


@dataclass(frozen=True)
class _Plan:
    """What a family calls the tensors of a model, in the family's one spelling.

    Attributes:
      family, shapes: see `find_network`.
      body: makes all parameters but the head's.
      head: makes the head; empty if the family has no head of our kind.
    """

    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    body: list[Assignment]
    head: list[Assignment]

    @property
    def size(self) -> int:
        """Number of tensors of the body."""
        return sum(len(a.sources) for a in self.body)

    @property
    def head_sources(self) -> tuple[str, ...]:
        """Names of the tensors that make the head."""
        return tuple(source for a in self.head for source in a.sources)


def _plan(family: Family, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> _Plan:
    planned = rules.spelled_assignments(family, model, list(shapes))
    return _Plan(
        family,
        shapes,
        [a for a in planned if not rules.is_head(a)],
        [a for a in planned if rules.is_head(a) and a.sources],
    )


@dataclass(frozen=True)
class _Candidate:
    """The tensors of a network that are found behind a prefix.

    Attributes:
      plan: what they are called.
      prefix: of their names in the file.
      names: in the file, by name in the plan.
    """

    plan: _Plan
    prefix: str
    names: dict[str, str]

    @property
    def share(self) -> float:
        """Of the network's tensors, by name."""
        return len(self.names) / self.plan.size

    def count_fitting(self, tensors: Tensors) -> int:
        """How many of them have the right shape."""
        return sum(
            len(a.sources)
            for a in self.plan.body
            if all(source in self.names for source in a.sources)
            and rules.fits(
                a, [np.shape(tensors[self.names[source]]) for source in a.sources], self.plan.shapes
            )
        )


def _names_by_prefix(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """{prefix: {name behind it: whole name}} for all prefixes, "" included, the shortest first.

    The names behind the prefix are without the wrappers of single modules, unless two names would
    then be the same.
    """
    wholes: dict[str, list[str]] = {}
    for name in names:
        for end in (0, *_ends(name)):
            wholes.setdefault(name[:end], []).append(name)
    below: dict[str, dict[str, str]] = {}
    for prefix in sorted(wholes, key=len):
        behind = {name[len(prefix) :]: name for name in wholes[prefix]}
        plain = {_INNER_WRAPPER.sub("", name): whole for name, whole in behind.items()}
        below[prefix] = plain if len(plain) == len(behind) else behind
    return below


def _with_key(
    below: dict[str, dict[str, str]], key: str | None, origin: str
) -> dict[str, dict[str, str]]:
    """The prefixes that have these parts, next to each other."""
    if key is None:
        return below
    if not _parts(key):
        return {"": below[""]}
    wanted = f".{'.'.join(_parts(key))}."
    found = {
        prefix: names
        for prefix, names in below.items()
        if wanted in f".{'.'.join(_parts(prefix))}."
    }
    if not found:
        tops = sorted({parts[0] for prefix in below if (parts := _parts(prefix))})
        choice = f"set it to one of {_listed(tops)}, or " if tops else ""
        raise InputError(
            f"no name of a tensor in '{origin}' begins with init_key={key}; {choice}leave it out"
        )
    return found


def _candidates(
    plans: Sequence[_Plan], below: dict[str, dict[str, str]], tensors: Tensors
) -> list[_Candidate]:
    """The candidates that fit best; for each prefix the first family that does."""
    found: list[_Candidate] = []
    for plan in plans:
        known = {source for a in plan.body for source in a.sources}
        for prefix, names in below.items():
            named = {spelled(plan.family, name): whole for name, whole in names.items()}
            if own := {name: whole for name, whole in named.items() if name in known}:
                found.append(_Candidate(plan, prefix, own))
    most = max((len(candidate.names) for candidate in found), default=0)
    scores = {
        number: (candidate.count_fitting(tensors), len(candidate.names))
        for number, candidate in enumerate(found)
        if 2 * len(candidate.names) >= most
    }
    highest = max(scores.values(), default=(0, 0))
    best = [found[number] for number, score in scores.items() if score == highest]
    different: list[_Candidate] = []
    for candidate in best:
        if not any(
            candidate.prefix == other.prefix
            or set(candidate.names.values()) == set(other.names.values())
            for other in different
        ):
            different.append(candidate)
    return different


def _choose(
    candidates: Sequence[_Candidate], tensors: Tensors, origin: str
) -> tuple[_Candidate, tuple[str, ...]]:
    """The network to read, and a sentence about the choice if there was one."""
    first = candidates[0]
    # Of less than half a network, several parts of another one may fit alike: no choice to make.
    if first.share < 0.5 or all(_equal(first, other, tensors) for other in candidates[1:]):
        return first, ()
    keys = [".".join(_parts(candidate.prefix)) or "''" for candidate in candidates]
    several = f"'{origin}' holds several networks that fit, under {' and '.join(keys)}"
    averaged = [
        number
        for number, candidate in enumerate(candidates)
        if any(map(_AVERAGED.search, _parts(candidate.prefix)))
    ]
    if len(averaged) != 1:
        raise InputError(f"{several}; choose one with init_key, e.g. init_key={keys[-1]}")
    chosen = keys.pop(averaged[0])
    note = f"{several}: taking {chosen}, the averaged weights; init_key={keys[0]} takes another"
    return candidates[averaged[0]], (note,)


def _equal(a: _Candidate, b: _Candidate, tensors: Tensors) -> bool:
    """Whether two candidates hold the same numbers."""
    return a.names.keys() == b.names.keys() and all(
        np.array_equal(tensors[a.names[name]], tensors[b.names[name]]) for name in a.names
    )


def _split(
    best: _Candidate, below: dict[str, dict[str, str]], tensors: Tensors
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """The network's tensors by name without the prefix, and the shapes of what is left out."""
    family, prefix = best.plan.family, best.prefix
    levels = [prefix[:end] for end in reversed((0, *_ends(prefix)))]
    head = _find_head(best, levels, below, tensors)
    inside = {spelled(family, name): whole for name, whole in below[prefix].items()}
    replaced = set() if head else set(best.plan.head_sources)
    unknown = {
        name: np.shape(tensors[whole])
        for name, whole in inside.items()
        if name not in best.names and name not in head and not _matches(family.ignored, name)
    }
    attached = _attached(best.plan, unknown) | replaced
    attached |= {name for name in unknown if _matches(family.before_head, name)}
    network, left_out = {}, {}
    behind = [{whole: name for name, whole in below[level].items()} for level in levels]
    for name, tensor in tensors.items():
        if name in head.values():
            continue
        ways = [names[name] for names in behind if name in names]
        if any(_matches(family.ignored, spelled(family, way)) for way in ways):
            continue
        if name.startswith(prefix) and spelled(family, ways[0]) not in attached:
            network[ways[0]] = tensor
        else:
            left_out[name] = np.shape(tensor)
    return network | {name: tensors[whole] for name, whole in head.items()}, left_out


def _find_head(
    best: _Candidate, levels: Sequence[str], below: dict[str, dict[str, str]], tensors: Tensors
) -> dict[str, str]:
    """The names of the network's own head; empty if it is not complete, or of another shape.

    Where only the body was wrapped (`backbone.conv1.weight`, `fc.weight`), the head lies at one of
    the outer `levels`.
    """
    plan, family = best.plan, best.plan.family
    spelled_at = [
        {spelled(family, name): whole for name, whole in below[level].items()} for level in levels
    ]
    if any(_matches(family.before_head, name) for names in spelled_at for name in names):
        return {}
    for names in spelled_at:
        if plan.head and all(source in names for source in plan.head_sources):
            given = {source: np.shape(tensors[names[source]]) for source in plan.head_sources}
            return {name: names[name] for name in given} if _is_head(plan, given) else {}
    return {}


def _is_head(plan: _Plan, given: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors of these shapes make a head of the model, for any number of classes."""
    shapes = [[given[source] for source in a.sources] for a in plan.head]
    if not all(rules.fits(a, own, plan.shapes) for a, own in zip(plan.head, shapes, strict=True)):
        return False
    made = [
        array.shape[-1]
        for a, own in zip(plan.head, shapes, strict=True)
        for array in a.transform.forward([np.broadcast_to(np.float32(0), shape) for shape in own])
    ]
    return len(set(made)) == 1


def _attached(plan: _Plan, unknown: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The tensors of modules that stand beside the network's own and take its features.

    Such a module is no part of the network but, e.g., an old head: its name is none of the
    network's, and it has a matrix with an axis of the features' length, or it follows a module that
    has. A module of vectors alone may be a norm within the network, so it is not among them.

    Args:
      plan: of the network.
      unknown: names and shapes of the tensors that the plan does not know.
    """
    own = [_parts(source) for a in plan.body for source in a.sources]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*own, strict=False))
    depth = 1 + len(list(shared))  # of the parts that name a module of the network
    known = {tuple(parts[:depth]) for parts in own}
    modules: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    scalars = set()
    for name, shape in unknown.items():
        parts = _parts(name)
        if tuple(parts[:depth]) not in known:
            if np.prod(shape) == 1:  # e.g. a counter, or the temperature of a loss
                scalars.add(name)
            if len(parts) > depth:
                modules.setdefault(tuple(parts[:depth]), {})[name] = shape
    width = plan.shapes.get("head/kernel", (1,))[0]
    linked = {
        module
        for module, inner in modules.items()
        if any(len(shape) > 1 and not all(n % width for n in shape) for shape in inner.values())
    }
    following = {
        module
        for module, inner in modules.items()
        if linked and {len(shape) for shape in inner.values() if len(shape) > 1} == {2}
    }
    return scalars | {name for module in linked | following for name in modules[module]}


def _left_out_note(left_out: Iterable[str], prefix: str, origin: str) -> str:
    """A sentence that names what is left out, by its first part that is not one of the prefix."""
    counts: dict[str, int] = {}
    for name in left_out:
        starts = (name[:end] for end in _ends(name))
        first = next((start for start in starts if not prefix.startswith(start)), None)
        shown = name if first is None else f"{first}*"
        counts[shown] = counts.get(shown, 0) + 1
    listed = [name if n == 1 else f"{name} ({n} tensors)" for name, n in counts.items()]
    where = f"; the network was read from {prefix}*" if prefix else ""
    return f"left out of '{origin}': {_listed(listed)}{where}"


def _why_headless(plan: _Plan, left_out: Mapping[str, tuple[int, ...]]) -> str:
    """Part of a sentence: what would make a head, and what there is instead."""
    held = [f"{name} {shape}" for name, shape in left_out.items()]
    wanted = " and ".join(plan.head_sources)
    why = f"{wanted} would make one" if wanted else f"that of {plan.family.name} is of another kind"
    return f"{why}, and it holds {_listed(held)}" if held else why


def _matches(regexes: Sequence[str], name: str) -> bool:
    return any(re.fullmatch(regex, name) for regex in regexes)


def _ends(name: str) -> list[int]:
    """Where the first parts of a name end, with the separator."""
    found = itertools.islice(_SEPARATOR.finditer(name), _DEEPEST)
    return [separator.end() for separator in found]


def _parts(name: str) -> list[str]:
    return [part for part in _SEPARATOR.split(name) if part]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
