"""Figures of a report: drawn with matplotlib, as SVG within the HTML and as PNG files."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from tljax.analysis.report.measures import Measure
from tljax.files import replacing
from tljax.transfer.scenarios import SCENARIOS

REFERENCE = "from_scratch"  # what transfer is compared with

# `_inline` replaces these colours by CSS variables, which have other values in dark mode.
INK, PAPER = "#010101", "#fefefe"
COLOURS = {  # Okabe and Ito's, which colour-blind readers can tell apart
    "feature_extraction": "#d55e00",
    "freeze_first": "#009e73",
    "from_scratch": INK,
    "fine_tune": "#0072b2",
    "surgical": "#cc79a7",
}
# Lines and marks differ in form, too, not only in colour.
MARKS = {
    "feature_extraction": "^",
    "freeze_first": "s",
    "from_scratch": "D",
    "fine_tune": "o",
    "surgical": "v",
}
DASHES = {
    "feature_extraction": ":",
    "freeze_first": "--",
    "from_scratch": "-",
    "fine_tune": "-",
    "surgical": "-.",
}
_PLACE = (0.085, 0.155, 0.835, 0.765)
_LOWEST_R2 = -1.0  # that is drawn: an untrained network's may be thousands below
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep text as text: small, selectable, in the page's font
    "svg.hashsalt": "tljax",  # the same ids in each run
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.parse_math": False,  # a class may be called $x$
}


@dataclass
class Gallery:
    """The figures of one report.

    Attributes:
      pngs: the content of the PNG file of each drawing, by name.
    """

    pngs: dict[str, bytes] = field(default_factory=dict)

    def draw(
        self,
        name: str,
        alt: str,
        paint: Callable[[Any], None],
        size: tuple[float, float] = (5, 3.7),
        place: tuple[float, float, float, float] = _PLACE,
    ) -> str:
        """Draws a figure, keeps its PNG, and returns it as HTML.

        Args:
          name: name of the PNG file without its suffix; unique among the figures.
          alt: what the figure shows, for readers who cannot see it.
          paint: draws on matplotlib axes.
          size: width and height in inches.
          place: left, bottom, width and height of the axes, as shares of the figure.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_RC), warnings.catch_warnings():
            # The PNG's font lacks some letters; the HTML uses the reader's fonts.
            warnings.filterwarnings("ignore", message="Glyph")
            figure = Figure(figsize=size)
            paint(figure.add_axes(place))
            svg, png = io.StringIO(), io.BytesIO()
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(svg, format="svg", transparent=True, metadata=metadata)
            # A tight box, so that the picture includes labels of any length.
            figure.savefig(
                png,
                format="png",
                dpi=160,
                facecolor="white",
                bbox_inches="tight",
                metadata={"Software": None},
            )
        assert name not in self.pngs
        prefix = f"f{len(self.pngs)}"
        self.pngs[name] = png.getvalue()
        return _inline(svg.getvalue(), prefix, alt)

    def write(self, folder: Path) -> None:
        """Writes the PNG files, each atomically, into a folder that is made if need be."""
        folder.mkdir(exist_ok=True)
        for name, content in self.pngs.items():
            with replacing(folder / f"{name}.png") as temporary:
                temporary.write_bytes(content)


def legend(scenarios: Iterable[str]) -> str:
    """The line of each scenario with its name, in HTML."""
    items = (
        f'<span><i class="{scenario}"></i>{escape(scenario.replace("_", " "))}</span>'
        for scenario in sorted(scenarios, key=SCENARIOS.index)
    )
    return f'<p class="legend">{"".join(items)}</p>'


WIDE_LEFT = (0.13, 0.155, 0.79, 0.765)  # a place for axes whose numbers may be long


def place_for(measure: Measure) -> tuple[float, float, float, float]:
    """Where in a figure axes with values of a measure are, see `Gallery.draw`."""
    return _PLACE if measure.is_share else WIDE_LEFT


def score_axis(
    axes: Any,
    measure: Measure,
    title: str,
    values: Iterable[float],
    *,
    whole: bool = False,
    note: str = "",
) -> None:
    """Sets up an axis y for values of a measure, with its title above it.

    Shares and R2 end at 1, which is perfect; errors begin at 0. R2 is cut at -1.

    Args:
      axes: matplotlib axes.
      measure: of the values.
      title: without the unit.
      values: all that are drawn.
      whole: whether shares and R2 begin at 0 or below in any case.
      note: stands behind the title.
    """
    values = list(values)
    low = math.floor(5 * (min(values) - 0.02)) / 5
    if measure.is_share:
        percent_axis(axes, f"{title}, %{note}", 0.0 if whole else max(0.0, low))
        return
    if measure.name == "r2":
        low = min(0.0, low) if whole else min(0.8, low)
        cut = low < _LOWEST_R2
        low, high = max(_LOWEST_R2, low), 1.0
        note += " (cut at \N{MINUS SIGN}1)" if cut else ""
    else:
        low, high = 0.0, max(values) or 1.0
    axes.set_ylim(low, high + 0.02 * (high - low))
    axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.locator_params(axis="y", nbins=6)
    _dress_axis(axes, f"{title}{note}", WIDE_LEFT)


def short_number(value: float) -> str:
    """A number of an axis in a few letters, e.g. `0.25`, `2500`, `2e4`."""
    text = f"{value:.4g}".replace("e+0", "e").replace("e-0", "e-")
    return text.replace("-", "\N{MINUS SIGN}")


def percent_axis(axes: Any, title: str, low: float = 0.0) -> None:
    """Sets up an axis y for shares from `low` to 1 in per cent, with its title above it."""
    step = 5 if low >= 0.75 else 10 if low >= 0.5 else 20
    levels = [level / 100 for level in range(0, 101, step) if level >= 100 * low]
    axes.set_ylim(low, 1 + 0.02 * (1 - low))
    axes.set_yticks(levels, [f"{100 * level:.0f}" for level in levels])
    _dress_axis(axes, title)


def _dress_axis(axes: Any, title: str, place: tuple[float, float, float, float] = _PLACE) -> None:
    """Draws level lines and the title, which begins near the left edge of the figure."""
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=3)
    axes.set_title(title, loc="left", x=-round(place[0] / place[2], 2), fontsize=11)


def _inline(svg: str, prefix: str, label: str) -> str:
    """Makes a stand-alone SVG part of a page: CSS colours, unique ids, no namespaces."""
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    opening = f'<svg {size[0]} role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for scenario, colour in COLOURS.items():
        if scenario != REFERENCE:
            svg = svg.replace(colour, f"var(--{scenario})")
    return svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
