"""Every bundled table: a new one is tested by being there."""

from __future__ import annotations

from itertools import chain

import pytest

from converter.architectures.lint import lint
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.sample_configs import sample_configs
from converter.architectures.schema import FRAMEWORKS, Architecture
from converter.file_names import tables_directory
from tests.factories import bundled_registry
from tests.sampling import quick_sample

LIBRARY = bundled_registry()
TABLES = sorted(
    path
    for path in tables_directory().glob("*.toml")
    if path.stem not in ("_presets", "_model_types")  # not tables
)
MODEL_TYPES = [name for name in LIBRARY.names if not LIBRARY.is_composite(name)]


@pytest.fixture(scope="module", params=quick_sample(MODEL_TYPES, 12))
def sampled(request) -> tuple[Architecture, dict[ModelConfig, list[ModelSpec]]]:
    """Return an architecture, and its specifications for each of the sample configurations."""
    architecture = LIBRARY.architecture(request.param)
    configs, problems = sample_configs(architecture, request.param)
    assert not problems
    builder = ModelSpecBuilder(LIBRARY.conventions)
    return architecture, {
        config: [builder.model(config, heads=heads) for heads in architecture.head_sets()]
        for config in configs
    }


@pytest.mark.parametrize("path", quick_sample(TABLES, 12), ids=lambda path: path.stem)
def test_lint_finds_nothing(path):
    assert [str(problem) for problem in lint(path)] == []


@pytest.mark.parametrize("name", LIBRARY.names)
def test_file_is_named_after_what_is_in_it(name):
    table = LIBRARY.composite(name) if LIBRARY.is_composite(name) else LIBRARY.architecture(name)
    assert table.name == name


def test_probes_bring_out_every_row_and_leave_each_conditional_one_out(sampled):
    architecture, specs = sampled
    expanded = {
        config: {name for spec in each for name in spec.by_name} for config, each in specs.items()
    }
    rows = [*architecture.modules]
    for group in (*architecture.parts.values(), *architecture.heads.values()):
        rows += group
    paths = [row.path for row in rows]
    alternatives = {path for path in paths if paths.count(path) > 1}
    for row in rows:
        leaf = next(leaf for leaf in row.layer_type.params if leaf.name not in row.omitted)
        met = []
        for config, names in expanded.items():
            filled = [
                row.path.format(places) for places in config.index_combinations(row.path.places, 99)
            ]
            if not filled and row.when is None:
                continue  # no layers
            met.append(
                any((f"{path}.{leaf.name}" if leaf.name else path) in names for path in filled)
            )
        assert any(met), row.path
        if row.when is None:
            assert all(met), row.path
        elif not row.when.fields & set(row.path.places) and row.path not in alternatives:
            assert not all(met), row.path


def test_index_gives_every_slot_back_by_all_its_names(sampled):
    for model_spec in chain.from_iterable(sampled[1].values()):
        for dialect in LIBRARY.conventions.dialects:
            index = model_spec.index(dialect)
            for param in model_spec.params:
                if dialect not in param.stored_as:  # all but the canonical one may lack names
                    assert dialect != FRAMEWORKS[0]
                    continue
                spelling = param.stored_as[dialect]
                for other in (spelling.name, *spelling.aliases):
                    assert index[other] is param
