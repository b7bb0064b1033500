"""Puts `configs/` into wheels as `tljax/configs`, where `--config NAME` finds them.

Everything else about the package stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """An editable install has the files of the checkout, and copies none."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in sorted(Path("configs").rglob("*.py")):
                target = Path(self.build_lib, "tljax", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithConfigs})
