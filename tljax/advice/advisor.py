"""`tljax advise`: evidence, races, a choice, and the files that it leaves."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tljax import experiment
from tljax.advice import decision, depths, distances, evidence, races, textbook
from tljax.advice import prior as priors
from tljax.advice.config_page import write_config
from tljax.advice.decision import Choice, Measured
from tljax.advice.evidence import Evidence
from tljax.advice.prior import Normal, Prior
from tljax.advice.strategies import FINE_TUNE, IN_WORDS, PROBE, Strategy, build_all
from tljax.console import console, progress_bar
from tljax.data import Dataset, Source
from tljax.data.sources import fingerprint
from tljax.errors import InputError, redacted
from tljax.files import parse_json
from tljax.runs.workdir import locked, make_workdir, write_atomically
from tljax.training import trial

_KEPT = "advice_state.json"
FEATURES_ALONE = 1e-6  # a budget for which no race is run


def advise(
    overrides: Sequence[str], workdir: Path, budget: float, *, progress: bool = False
) -> dict[str, Any]:
    """Advises on a scenario, and writes `advised.py` and `advice.json` into the workdir.

    Killed and called again it resumes: evidence and races that are done are kept there.

    Args:
      overrides: `--config.FIELD=VALUE`, with the data and the source.
      workdir: for the files.
      budget: the share of one full fine-tuning that may be spent, in forward passes; 0.05 is about
        what features alone cost.
      progress: whether to show progress on stderr.

    Returns:
      The content of `advice.json`.

    Raises:
      InputError: for a target that cannot be cross-validated, a source that does not fit, or a
        workdir of other advice.
    """
    if not budget > 0:
        raise InputError(f"the budget is {budget:g}; give a share of one fine-tuning, e.g. 0.25")
    begun = time.monotonic()
    strategies = build_all(overrides)
    probe = strategies[PROBE].experiment
    if not probe.starts_from_weights:
        raise InputError("advice is about pretrained weights; name them with --init_from")
    dataset = _training_side(probe)
    images = evidence.choose_images(dataset)
    experiment.check_source(probe.config)
    settings = {
        "data": probe.config.data,
        "overrides": sorted(map(_without_secrets, overrides)),
        "images": fingerprint(dataset.train),
    }
    with locked(workdir):
        kept = _read(workdir, settings)
        make_workdir(workdir)
        found = _evidence(kept, workdir, probe, dataset, images, progress)
        full = strategies[FINE_TUNE].cost
        raced, spent = _race(kept, workdir, strategies, dataset, found, budget * full, progress)
        content = _conclude(found, strategies, raced, priors.recorded())
        seconds = kept["seconds"] + time.monotonic() - begun
        content["cost"] = {"budget": budget, "spent": spent / full, "seconds": round(seconds, 1)}
        content["settings"] = settings
        content["races"] = [
            {"name": key.rpartition(" ")[0], **measured}
            for key, measured in kept["races"].items()
            if key.rpartition(" ")[0] in raced
        ]
        chosen = strategies[content["choice"]["name"]]
        write_config(workdir / "advised.py", chosen, overrides, content)
        write_atomically(workdir / "advice.json", json.dumps(content, indent=2) + "\n")
        kept["seconds"] = seconds
        _write(workdir, kept)
    return content


def conclude(
    found: Evidence,
    costs: Mapping[str, float],
    raced: Mapping[str, Measured],
    prior: Prior,
) -> tuple[dict[str, Normal], Choice]:
    """Beliefs about the gain of each strategy over the probe, and the choice.

    Args:
      found: the evidence.
      costs: of each strategy.
      raced: what races measured; of a strategy the longest.
      prior: of the record.
    """
    kind = priors.kind_of(found.parameters)
    known = priors.covariates_of(found.images, found.probe, found.similarity)
    gains = decision.believe(prior, kind, known, costs, raced, found.probe)
    return gains, decision.choose(gains, costs)


def _conclude(
    found: Evidence,
    strategies: Mapping[str, Strategy],
    raced: Mapping[str, Measured],
    prior: Prior,
) -> dict[str, Any]:
    costs = {name: strategy.cost for name, strategy in strategies.items()}
    gains, choice = conclude(found, costs, raced, prior)
    kind = priors.kind_of(found.parameters)
    offset = prior.offsets[kind]
    sampling = found.probe * (1 - found.probe) / found.looked_at
    rows = []
    for name, gain in sorted(gains.items(), key=lambda item: -item[1].mean):
        strategy = strategies[name]
        spread = float(np.sqrt(gain.deviation**2 + offset.deviation**2 + sampling))
        mean = found.probe + offset.mean + gain.mean
        low, high = decision.interval(Normal(mean, spread))
        rows.append(
            {
                "name": name,
                "k": strategy.k,
                "in_words": IN_WORDS[name].format(k=strategy.k),
                "gain": gain.mean,
                "gain_deviation": gain.deviation,
                "predicted": float(np.clip(mean, 0, 1)),
                "low": low,
                "high": high,
                "cost": strategy.cost / strategies[FINE_TUNE].cost,
                "raced": raced[name]._asdict() if name in raced else None,
            }
        )
    book = textbook.advise(found.images, found.similarity)
    similarities = np.array(prior.similarities[kind])
    return {
        "choice": choice._asdict(),
        "strategies": rows,
        "textbook": {**book._asdict(), "agrees": book.strategy == choice.name},
        "evidence": found.to_json()
        | {
            "probe": found.probe,
            "similarity": found.similarity,
            "more_similar_than": float(np.mean(similarities < found.similarity)),
            "recorded_targets": len(similarities),
            "farther_than": distances.percentiles(found.distances, prior.distances[kind]),
        },
    }


def _training_side(built: experiment.Experiment) -> Dataset:
    """The target with all its training images, whatever a scenario would validate on."""
    config = built.config.copy_and_resolve_references()
    config.val_fraction = 0.0
    return experiment.load_data(config)


def _evidence(
    kept: dict[str, Any],
    workdir: Path,
    probe: experiment.Experiment,
    dataset: Dataset,
    images: Source,
    progress: bool,
) -> Evidence:
    """The evidence, kept or gathered."""
    if "evidence" not in kept:
        pretrained = probe.read_pretrained()
        assert pretrained is not None
        found = evidence.gather(probe, dataset, images, pretrained, progress=progress)
        kept["evidence"] = found.to_json()
        _write(workdir, kept)
    return evidence.from_json(kept["evidence"])


def _race(
    kept: dict[str, Any],
    workdir: Path,
    strategies: Mapping[str, Strategy],
    dataset: Dataset,
    found: Evidence,
    allowed: float,
    progress: bool,
) -> tuple[dict[str, Measured], float]:
    """Races as the budget allows; returns what they measured, and the forward passes spent."""
    spent = float(found.passes)
    costs = {name: strategy.cost for name, strategy in strategies.items()}
    gains, _ = conclude(found, costs, {}, priors.recorded())
    ranked = races.races_first(sorted(gains, key=lambda name: -gains[name].mean))

    def cost_of(name: str, length: float) -> float:
        return races.race_cost(strategies[name], length)

    if not trial.enough(dataset.train) or found.images < races.LEAST_IMAGES:
        ranked = []  # to leave a third out
    held: dict[str, Any] = {}  # what races need, read before the first one
    total = len(ranked) + len(ranked) // 2  # of two rounds, if the budget allows them
    with progress_bar() as bar:
        task = bar.add_task("races", total=total, visible=progress and total > 0)

        def race(name: str, length: float) -> Measured:
            key = f"{name} {length}"
            if key not in kept["races"]:
                if not held:
                    pretrained = strategies[PROBE].experiment.read_pretrained()
                    rows = races.left_out(dataset)
                    right = _probe_right(strategies[PROBE], dataset, pretrained, rows)
                    held.update(pretrained=pretrained, rows=rows, probe_right=right)
                measured = races.run(strategies[name], length, dataset, **held)
                kept["races"][key] = measured._asdict()
                _write(workdir, kept)
            bar.advance(task)
            return Measured(**kept["races"][key])

        probe_pass = float(found.images)  # features for the probe that races are compared with
        raced, cost = races.halve(ranked, cost_of, allowed - spent - probe_pass, race)
    if not raced and progress:
        console.print("no race fits the budget or the target: features alone decide")
    return raced, spent + (cost + probe_pass if raced else 0.0)


def _probe_right(probe: Strategy, dataset: Dataset, pretrained: Any, rows: np.ndarray) -> int:
    """How many images the probe classifies correctly that races leave out."""
    built = probe.experiment
    variables = evidence.variables_of(built, pretrained)
    x = depths.compute(built.model, variables, built.preprocessing, dataset.train, "features")
    last = x[max(x)]
    return races.probe_right(last, dataset.train, dataset.num_classes, rows)


def _without_secrets(word: str) -> str:
    """An override without the secrets of an address that it holds."""
    name, equals, value = word.partition("=")
    return name + equals + redacted(value)


def _read(workdir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call kept in the workdir, if it asked the same."""
    path = workdir / _KEPT
    if not path.exists():
        if workdir.is_dir() and (workdir / "config.json").exists():
            raise InputError(f"'{workdir}' holds a run; give advice a --workdir of its own")
        return {"settings": dict(settings), "races": {}, "seconds": 0.0}
    try:
        kept: dict[str, Any] = parse_json(path.read_bytes())
        before = kept["settings"]
        if not isinstance(before, dict) or not {"races", "seconds"} <= kept.keys():
            raise ValueError("it is not whole")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path} ({error}); delete it to begin again") from None
    if before == settings:
        return kept
    if {**before, "images": settings["images"]} == settings:
        raise InputError(
            f"'{workdir}' holds advice about other training images of '{before.get('data')}'; give"
            f" another --workdir, or delete {path} to begin again"
        )
    raise InputError(
        f"'{workdir}' holds advice about '{before.get('data')}' with other settings; give"
        " another --workdir"
    )


def _write(workdir: Path, kept: Mapping[str, Any]) -> None:
    write_atomically(workdir / _KEPT, json.dumps(kept, indent=1) + "\n")
