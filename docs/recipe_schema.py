"""Writes `recipe.schema.json`, by which editors check recipes: ``python docs/recipe_schema.py``."""

from __future__ import annotations

import json
from pathlib import Path

from converter.recipes.schema import recipe_schema

PAGE = Path(__file__).with_name("recipe.schema.json")


def text() -> str:
    """Return the file."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
