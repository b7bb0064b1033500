"""The HTML file of a report: it needs no network, and follows the reader's light or dark mode."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tljax.runs.workdir import write_atomically


def write_page(path: Path, title: str, body: str) -> None:
    """Writes an HTML file atomically.

    Args:
      path: the file; its folder exists.
      title: of the page, in HTML.
      body: what the page shows, in HTML.
    """
    page = _PAGE.format(title=title, style=_STYLE, body=body)
    # ASCII, so that the encoding of the locale cannot damage it.
    write_atomically(path, page.encode("ascii", "xmlcharrefreplace").decode())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, in a box that scrolls by itself on a narrow screen."""
    heading = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"""<div class="scroll" tabindex="0"><table>
<thead><tr>{heading}</tr></thead>
<tbody>
{body}
</tbody></table></div>"""


def made_by(command: str, versions: Sequence[Mapping[str, str]]) -> str:
    """The command that made a report, and the versions of the libraries that ran.

    Args:
      command: a command line, as plain text.
      versions: library to version, once for each combination among the runs.
    """
    lines = "".join(
        f'<p class="versions">{escape(", ".join(f"{n} {v}" for n, v in each.items()))}</p>'
        for each in versions
    )
    return f"""<p>Made by</p>
<div class="scroll" tabindex="0"><pre>{escape(command)}</pre></div>
{lines}"""


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c1f23; --soft: #5a626c; --line: #d9dde2; --shade: #f3f5f7;
  --best: #8a5a00; --textbook: #0b5fa5;
  --feature_extraction: #d55e00; --freeze_first: #008a64; --from_scratch: #1c1f23;
  --fine_tune: #0072b2; --surgical: #b0558a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --ink: #e6e9ed; --soft: #a3acb7; --line: #343a42; --shade: #1f242a;
    --best: #f2bd4b; --textbook: #7cc0f5;
    --feature_extraction: #ff9a52; --freeze_first: #35c79b; --from_scratch: #e6e9ed;
    --fine_tune: #5db8f0; --surgical: #e79ac6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 0 0 0.25rem; }
h1, h2, h3, p, li, th, td { overflow-wrap: break-word; }
p, ul { max-width: 46rem; margin: 0.5rem 0; }
ul { padding-left: 1.2rem; }
.finding {
  padding: 0.6rem 0.9rem; border-left: 4px solid var(--textbook); background: var(--shade);
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 0.6rem 1rem;
  margin: 0.5rem 0;
}
dt, small, .legend, .versions { color: var(--soft); font-size: 0.85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.45rem 0.7rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
thead th {
  background: var(--shade); font-size: 0.85rem; vertical-align: bottom; white-space: normal;
}
tbody th { font-weight: 600; min-width: 7.5rem; white-space: normal; }
tbody th, thead th:first-child { position: sticky; left: 0; }
tbody th { background: var(--paper); }
.prose { display: block; min-width: 15rem; white-space: normal; }
small { display: block; font-weight: 400; white-space: normal; }
@media (max-width: 30rem) {
  th, td { padding: 0.35rem 0.5rem; }
  tbody th { min-width: 6rem; max-width: 8rem; }
}
small span, .legend .best, .legend .textbook { display: inline-block; margin-right: 0.5rem; }
.best { color: var(--best); }
.textbook { color: var(--textbook); }
.panels {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem;
}
figure { margin: 0.75rem 0 0; min-width: 0; }
.panels > figure:only-child { max-width: 34rem; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { font-family: inherit !important; }
figcaption { font-size: 0.92rem; }
figcaption ol { margin: 0.25rem 0; padding-left: 1.4rem; }
figcaption .legend span { display: inline-block; margin-right: 0.8rem; }
.legend i { display: inline-block; width: 1.7rem; margin-right: 0.35rem; vertical-align: middle; }
i.feature_extraction { border-top: 3px dotted var(--feature_extraction); }
i.freeze_first { border-top: 3px dashed var(--freeze_first); }
i.from_scratch { border-top: 4px solid var(--from_scratch); }
i.fine_tune { border-top: 2px solid var(--fine_tune); }
i.surgical { border-top: 2px dashed var(--surgical); }
pre { margin: 0; padding: 0.6rem 0.9rem; background: var(--shade); }
.panels + h3, .scroll + h3, ul + h3, p + h3 { margin-top: 2rem; }
h4 { font-size: 0.95rem; margin: 1.25rem 0 0.25rem; }
.frozen { color: var(--soft); }
.bar { display: block; height: 0.3rem; margin-top: 0.2rem; min-width: 6rem; background:
  linear-gradient(to right, var(--fine_tune) var(--share), var(--line) var(--share)); }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem;
  list-style: none; padding: 0; max-width: none; }
.mistakes img { display: block; width: 6rem; height: 6rem; object-fit: contain;
  image-rendering: pixelated; background: var(--shade); margin-bottom: 0.3rem; }
.mistakes li { font-size: 0.9rem; }
.gone { display: block; padding: 2rem 0.5rem; background: var(--shade); color: var(--soft); }
summary { cursor: pointer; }"""
