"""`advice.html`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the page."""
