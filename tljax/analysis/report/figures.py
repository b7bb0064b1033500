"""Figures of a report: drawn by matplotlib, put into the page as svg, and beside it as PNG."""

import io
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from tljax.files import replacing
from tljax.transfer.scenarios import SCENARIOS

REFERENCE = "from_scratch"  # what transfer is compared with

# Colours that stand for CSS variables, which take another value in the dark; `_inline` swaps them.
INK, PAPER = "#010101", "#fefefe"
COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart
    "feature_extraction": "#d55e00",
    "freeze_first": "#009e73",
    "from_scratch": INK,
    "fine_tune": "#0072b2",
    "surgical": "#cc79a7",
}
# Lines and marks differ in more than colour.
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
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "tljax",  # ids by content, not by chance
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
    """The figures of one page.

    Attributes:
      pngs: the same drawings for other uses, by name, as the content of files.
    """

    pngs: dict[str, bytes] = field(default_factory=dict)

    def draw(
        self,
        name: str,
        alt: str,
        paint: Callable[[Any], None],
        size: tuple[float, float] = (5, 3.7),
        place: tuple[float, float, float, float] = (0.085, 0.155, 0.835, 0.765),
    ) -> str:
        """Draws a figure, keeps it as a PNG, and gives it as html.

        Args:
          name: of the PNG, without its suffix; another for each figure.
          alt: what the figure shows, for those who do not see it.
          paint: draws on matplotlib axes.
          size: in inches.
          place: of the axes in the figure: left, bottom, width and height as shares of it.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_RC), warnings.catch_warnings():
            # of letters that the PNG's font lacks; the page has the reader's fonts
            warnings.filterwarnings("ignore", message="Glyph")
            figure = Figure(figsize=size)
            paint(figure.add_axes(place))
            svg, png = io.StringIO(), io.BytesIO()
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(svg, format="svg", transparent=True, metadata=metadata)
            # Labels beside the axes are part of the picture, however long.
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
        """Writes the PNGs, each whole or not at all."""
        folder.mkdir(exist_ok=True)
        for name, content in self.pngs.items():
            with replacing(folder / f"{name}.png") as temporary:
                temporary.write_bytes(content)


def legend(scenarios: Iterable[str]) -> str:
    """Which line is which, as html."""
    items = (
        f'<span><i class="{scenario}"></i>{escape(scenario.replace("_", " "))}</span>'
        for scenario in sorted(scenarios, key=SCENARIOS.index)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def percent_axis(axes: Any, title: str, low: float = 0.0) -> None:
    """The y axis of a figure of accuracies, with its title above it."""
    step = 5 if low >= 0.75 else 10 if low >= 0.5 else 20
    levels = [level / 100 for level in range(0, 101, step) if level >= 100 * low]
    axes.set_ylim(low, 1 + 0.02 * (1 - low))
    axes.set_yticks(levels, [f"{100 * level:.0f}" for level in levels])
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=3)
    axes.set_title(title, loc="left", x=-0.1, fontsize=11)


def _inline(svg: str, prefix: str, label: str) -> str:
    """A stand-alone svg as part of a page: its colours, its ids, no outside names."""
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
