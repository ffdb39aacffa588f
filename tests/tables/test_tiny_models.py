"""Every family table has a tiny model, whose variants exercise every row; no framework needed."""

from __future__ import annotations

import pytest

from converter.tables.config import FamilyConfig
from converter.tables.schema import Row
from tests.peer.tiny import DIRECTORY, FAMILIES, LIBRARY, described, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_tiny_model(family: str) -> None:
    LIBRARY.family(family)
    assert (DIRECTORY / f"{family}.json").is_file(), (
        f"write {DIRECTORY.name}/{family}.json as tests/peer/test_every_table.py says"
    )


def test_no_tiny_model_is_without_its_table() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.json")} <= set(FAMILIES)


@pytest.mark.parametrize("family", described())
def test_every_row_is_exercised(family: str) -> None:
    spec = tiny(family)
    table = LIBRARY.family(family)
    configs = [
        FamilyConfig(table, spec.fields(variant), family) for variant in ("", *spec.variants)
    ]
    rows = [
        *table.modules,
        *(row for part in table.parts.values() for row in part),
        *(row for head in table.heads.values() for row in head),
    ]
    idle = [str(row.path) for row in rows if not any(_lives(row, config) for config in configs)]
    assert not idle, f"neither the configuration nor a variant has {idle}"


def _lives(row: Row, config: FamilyConfig) -> bool:
    """Whether a model of this configuration has the row at any of its places."""
    choices: list[dict[str, int | str]] = [{}]
    for name in row.path.places:
        choices = [
            {**chosen, name: step}
            for chosen in choices
            for step in config.steps(config.family.layers[name], chosen)
        ]
    return any(config.holds(row.when, places) for places in choices)
