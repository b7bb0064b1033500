"""The test images that a setting got wrong with the highest confidence, and pictures of images."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from PIL import Image

from tljax import data, experiment
from tljax.analysis.report.finished_runs import Setting
from tljax.analysis.report.formatting import percent
from tljax.analysis.report.labels import html_text, plain_text
from tljax.analysis.report.task_answers import TaskAnswers
from tljax.data import Source
from tljax.errors import InputError

_MISTAKES = 12
_SIDE = 96  # the longest side of a thumbnail, in pixels


@dataclass(frozen=True)
class _Mistake:
    """A test image, its most confident wrong answer, and how many seeds were wrong."""

    image: int
    label: int
    predicted: int
    confidence: float
    seeds: int


def mistakes_part(answers: TaskAnswers) -> str:
    """The images with the most confident wrong answers, each once, in HTML."""
    mistakes = sorted(_find_mistakes(answers), key=lambda m: (-m.confidence, m.image))[:_MISTAKES]
    if not mistakes:
        return "<p>No test image was mistaken.</p>"
    source, reason = _load_images_of(answers)
    items = [_mistake_item(mistake, answers, source) for mistake in mistakes]
    return list_images("Most confident mistakes", items, "" if source is not None else reason)


def list_images(heading: str, items: Sequence[str], no_pictures: str) -> str:
    """A heading and a list of images, in HTML; `no_pictures`: why there are none, or empty."""
    entries = "\n".join(items)
    note = f"<p>No pictures: {no_pictures}</p>" if no_pictures else ""
    return f"""<h4>{heading}</h4>
{note}<ul class="mistakes">
{entries}
</ul>"""


def _find_mistakes(answers: TaskAnswers) -> list[_Mistake]:
    """The images that at least one seed got wrong."""
    found: dict[int, _Mistake] = {}
    for given in answers.by_seed.values():
        for i in np.flatnonzero(given.labels != given.predicted):
            image = int(given.images[i])
            label, predicted = int(given.labels[i]), int(given.predicted[i])
            mistake = _Mistake(image, label, predicted, float(given.confidences[i]), seeds=1)
            before = found.get(image)
            if before is not None:
                most_confident = mistake if mistake.confidence > before.confidence else before
                mistake = replace(most_confident, seeds=before.seeds + 1)
            found[image] = mistake
    return list(found.values())


def _load_images_of(answers: TaskAnswers) -> tuple[Source | None, str]:
    """The images that were answered, or None and the reason in HTML."""
    first_class = 0  # of the task, among the classes of all tasks
    for task in answers.setting.first.tasks:
        if task == answers.task:
            break
        first_class += len(task.class_names)
    seen = [(given.images, given.labels + first_class) for given in answers.by_seed.values()]
    return load_test_images(answers.setting, seen)


def load_test_images(
    setting: Setting, seen: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[Source | None, str]:
    """The test images of a setting, or None and the reason in HTML.

    Args:
      setting: its first run says where the images are.
      seen: the numbers of the images that each run predicted, with their labels.
    """
    workdir = setting.first.workdir
    try:
        splits = experiment.kept_splits(workdir)
        source = experiment.load_data(experiment.read_config(workdir), splits).test
    except InputError as error:
        return None, html_text(f"{error}"[:200])
    for images, labels in seen:
        if (
            source is None
            or images.max() >= len(source)
            or not np.array_equal(source.labels[images], labels)
        ):
            return None, "the test images are not those that the run saw."
    return source, ""


def _mistake_item(mistake: _Mistake, answers: TaskAnswers, source: Source | None) -> str:
    names = answers.task.class_names
    true, predicted = names[mistake.label], names[mistake.predicted]
    alt = f"{plain_text(true)}, taken for {plain_text(predicted)}"
    picture = thumbnail(source, mistake.image, alt)
    total = len(answers.by_seed)
    seeds = f", in {mistake.seeds} of {total} seeds" if total > 1 else ""
    return (
        f"<li>{picture}<span>{html_text(true)} taken for <b>{html_text(predicted)}</b>"
        f"<small>{percent(mistake.confidence)} sure{seeds}"
        f"<br>{image_name(source, mistake.image)}</small></span></li>"
    )


def image_name(source: Source | None, image: int) -> str:
    """The name of the image's file if it has one, else its number."""
    if source is None:
        return f"test image {image:,}"
    base, rows = data.unwrap_subset(source)
    files = getattr(base, "files", None)
    return f"test image {image:,}" if files is None else html_text(files[rows[image]].name)


def _picture(pixels: np.ndarray) -> Image.Image:
    """What can be seen of an image: the first three channels, or the first of one or two."""
    return Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0])


def thumbnail(source: Source | None, image: int, alt: str) -> str:
    """The image as a data URL: small images unchanged, others shrunk; "" without a source.

    Args:
      source: the test images, or None.
      image: its number.
      alt: what was predicted for it, for readers who cannot see it; plain text.
    """
    if source is None:
        return ""
    try:
        pixels = source[image]["image"]
    except InputError:
        return '<span class="gone">cannot be read</span>'
    picture = _picture(pixels)
    is_small = max(picture.size) <= _SIDE
    if not is_small:
        picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG" if is_small else "JPEG", quality=85)
    kind = "png" if is_small else "jpeg"
    encoded = base64.b64encode(content.getvalue()).decode()
    text = escape(f"Test image {image}: {alt}")
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{text}">'
