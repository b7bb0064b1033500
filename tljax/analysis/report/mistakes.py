"""Where a setting is most surely wrong: the test images themselves."""

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from tljax import data as data_lib
from tljax.analysis.report.answered import Answered
from tljax.analysis.report.labels import plain, shown
from tljax.analysis.report.words import percent
from tljax.data import Source
from tljax.errors import InputError

_MISTAKES = 12
_SIDE = 96  # pixels of a thumbnail at most


@dataclass(frozen=True)
class _Mistake:
    """A test image and its most confident wrong answer."""

    image: int
    label: int
    predicted: int
    confidence: float
    seeds: int


def mistakes_part(answered: Answered) -> str:
    """The images whose wrong answers are the most confident, each once."""
    found: dict[int, _Mistake] = {}
    total = 0
    for answers in answered.answers.values():
        wrong = np.flatnonzero(answers.labels != answers.predicted)
        total += len(wrong)
        for i in wrong:
            image = int(answers.images[i])
            here = _Mistake(
                image,
                int(answers.labels[i]),
                int(answers.predicted[i]),
                float(answers.confidences[i]),
                1,
            )
            before = found.get(image)
            surer = before is None or here.confidence > before.confidence
            kept = here if surer or before is None else before
            seeds = 1 + (before.seeds if before else 0)
            found[image] = _Mistake(image, kept.label, kept.predicted, kept.confidence, seeds)
    if not found:
        return "<p>No test image was mistaken.</p>"
    order = sorted(found.values(), key=lambda m: (-m.confidence, m.image))[:_MISTAKES]
    source, why = _test_images(answered)
    items = "\n".join(_shown_mistake(m, answered, source) for m in order)
    note = f"<p>No pictures: {why}</p>" if source is None else ""
    return f"""<h4>Most confident mistakes</h4>
{note}<ul class="mistakes">
{items}
</ul>"""


def _test_images(answered: Answered) -> tuple[Source | None, str]:
    """The images that the answers are to, or why they cannot be shown, as html."""
    config = answered.setting.first.config
    try:
        source = data_lib.load(config["data"], data_dir=config["data_dir"]).test
    except InputError as error:
        return None, shown(f"{error}"[:200])
    first = 0
    for task in answered.setting.first.tasks:
        if task == answered.task:
            break
        first += len(task.class_names)
    for answers in answered.answers.values():
        fits = source is not None and answers.images.max() < len(source)
        if (
            source is None
            or not fits
            or (source.labels[answers.images] - first != answers.labels).any()
        ):
            return None, "the test images are not those that the run saw."
    return source, ""


def _shown_mistake(mistake: _Mistake, answered: Answered, source: Source | None) -> str:
    names = answered.task.class_names
    true, predicted = names[mistake.label], names[mistake.predicted]
    picture = "" if source is None else _thumbnail(source, mistake.image, true, predicted)
    seeds = f", in {mistake.seeds} of {len(answered.answers)} seeds"
    where = _file_name(source, mistake.image)
    return (
        f"<li>{picture}<span>{shown(true)} taken for <b>{shown(predicted)}</b>"
        f"<small>{percent(mistake.confidence)} sure{seeds if len(answered.answers) > 1 else ''}"
        f"<br>{where}</small></span></li>"
    )


def _file_name(source: Source | None, image: int) -> str:
    if source is None:
        return f"test image {image:,}"
    base, rows = data_lib.unwrap_subset(source)
    files = getattr(base, "files", None)
    return f"test image {image:,}" if files is None else shown(files[rows[image]].name)


def _thumbnail(source: Source, image: int, true: str, predicted: str) -> str:
    """The image as a data URL: small ones as they are, others shrunk."""
    try:
        pixels = source[image]["image"]
    except InputError:
        return '<span class="gone">cannot be read</span>'
    picture = Image.fromarray(pixels)
    small = max(picture.size) <= _SIDE
    if not small:
        picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    encoded = base64.b64encode(content.getvalue()).decode()
    alt = escape(f"Test image {image}: {plain(true)}, taken for {plain(predicted)}")
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{alt}">'
