"""The README for a package index, where relative links lead nowhere; all else is in `setup.cfg`."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent


def long_description() -> str:
    """Return the README with absolute links and pictures, from the homepage in `setup.cfg`."""
    metadata = ConfigParser()
    metadata.read(ROOT / "setup.cfg", "utf-8")
    home = re.search("^Homepage = (.+)$", metadata["metadata"]["project_urls"], re.MULTILINE)
    assert home

    def absolute(link: re.Match[str]) -> str:
        picture, folder = link[2].endswith((".svg", ".png")), (ROOT / link[2]).is_dir()
        view = "raw" if picture else "tree" if folder else "blob"
        return f"{link[1]}{home[1]}/{view}/main/{link[2]}"

    text = (ROOT / "README.md").read_text("utf-8")
    return re.sub(r"^(\[[^\]]+\]: )(?!https://)(\S+)$", absolute, text, flags=re.MULTILINE)


if __name__ == "__main__":  # build backends run it under this name, too
    from setuptools import setup

    setup(long_description=long_description(), long_description_content_type="text/markdown")
