"""The documentation: options in its commands exist, and its links have targets."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_tpu_vm import REPOSITORY, check_flags, subcommands
from tljax.config import config_files

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
STUDIES = sorted((REPOSITORY / "experiments").rglob("README.md"))
LINKING = [*PAGES, *STUDIES, REPOSITORY / "benchmarks" / "README.md"]


def page_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def commands(text: str) -> list[str]:
    """The tljax commands of a text, and those that the launch script runs."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"^    (?:\$ )?(?:\S*/)?tljax (.+)$", text, re.MULTILINE)
    return found + re.findall(r"launch_tpu_vm.sh .* -- (.+)$", text, re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_commands_of_the_documentation_have_the_flags_that_they_name(page):
    for line in commands(page.read_text()):
        argv = shlex.split(line, comments=True)
        assert argv[0] in subcommands(), line
        check_flags([word for word in argv if word != "..."])
        if "--config" in argv and (file := argv[argv.index("--config") + 1]) != "C":
            file = file.partition(":")[0]
            assert (REPOSITORY / file).is_file() or file in config_files(), line


def test_commands_are_found():
    for name in ("README", "docs/recipes", "docs/data", "docs/weights", "docs/tpu", "docs/tfds"):
        assert commands((REPOSITORY / f"{name}.md").read_text()), name


@pytest.mark.parametrize("page", LINKING, ids=page_name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_both_indexes_list_every_page(index):
    page = REPOSITORY / index
    rows = re.findall(r"^\| \[[^]]+\]\(([^)]+\.md)\) \|", page.read_text(), re.MULTILINE)
    found = [(page.parent / row).resolve() for row in rows]
    docs = [path for path in PAGES if path.parent.name == "docs" and path.name != "README.md"]
    assert sorted(path for path in found if path.parent.name == "docs") == sorted(docs)


def test_files_that_contributing_names_exist():
    named = re.findall(r"`((?:tljax|tests|configs|experiments)/[\w/.]+)`", PAGES[1].read_text())
    assert len(named) > 20
    for name in named:
        if "NAME" not in name and "STEM" not in name:
            assert (REPOSITORY / name).exists(), name


def test_the_readme_is_short():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", [*PAGES, *STUDIES], ids=page_name)
def test_prose_has_at_most_100_characters_a_line(page):
    code = False
    for line in page.read_text().splitlines():
        code ^= line.startswith("```")
        if not code and not line.startswith(("|", "    ", "![")):
            assert len(line) <= 100, line
