"""Every mapping table, checked by transformers: tiny models of all classes in all their roles.

transformers 4.57 checks all three frameworks. transformers 5, which supports only PyTorch, loads
every PyTorch file too, saves it again bit by bit, and computes the same.

An architecture needs one file, ``tiny/<model_type>.json``:

``config``
    fields of the transformers configuration: tiny, all sizes different where the architecture
    allows it (hidden size other than the partner's 32; at least two layers).
``variants`` (optional)
    name → changes of ``config``; one for every switch that changes the set of tensors. It is tested
    with the classes whose tensors it changes. A row of the table that neither ``config`` nor a
    variant exercises fails ``tests/architectures/test_sample_configs.py``.
``inputs`` (optional)
    name → array, in addition to or instead of the random ``input_ids`` of shape [2, 9]::

        {"ids": [2, 9], "from": 5, "below": 90}   random integers
        {"floats": [2, 3, 24, 24]}                standard normal
        {"range": [2, 9], "from": 2}              2, 3, 4 … along the last axis; a measure of the
                                                  table, by its name, where variants change it
        {"fill": [2, 9], "value": 0}              constant
        null                                      not given, overriding ``inputs``

    ``pixel_values``, ``input_values`` and ``input_features`` replace ``input_ids``.
    For a decoder, every name gets the prefix ``decoder_``; for multiple choice, every array gets an
    axis of three choices after the first.
``tensorflow_inputs``, ``flax_inputs`` (optional)
    the same for one framework only, on top of ``inputs`` (such as Flax' ``position_ids``).
``class_inputs`` (optional)
    PyTorch class → its inputs, on top of ``inputs`` (such as ``decoder_input_ids``).
``class_config`` (optional)
    PyTorch class → changes of ``config`` for its stand-alone model (such as ``num_labels``,
    which is 5 for classifiers of sequences and tokens).
``cannot_run`` (optional)
    role, or class name of a framework, or either of them with ``-`` and a variant → why the class
    loads but cannot be called; then only what it loads is compared.
``cannot_build`` (optional)
    name → ``config``, changes of ``config`` with which transformers cannot build a model, and
    ``why``.
``own_files`` (optional)
    PyTorch class with ``-`` and a variant → why transformers cannot load what it saves itself; only
    the converted files are checked then.
``refused`` (optional)
    name → changes of ``config`` that no framework supports, as the table states.
``keep`` (optional)
    texts; parameters whose name contains one get no noise, and files may lack them (constants that
    a framework computes).
``tolerance`` (optional)
    largest relative difference of outputs across frameworks, if 1e-5 is too strict and rounding
    (`rounding.py`) is not the reason.
``transformers_4`` (optional)
    why transformers 4.57 lacks the classes; transformers 5 builds the models then, and is the only
    judge.
``transformers_5`` (optional)
    variant, PyTorch class, or ``""`` for all → why transformers 5 cannot hold it, or computes
    something else; the test then requires that it fails. ``other lengths``: why it cannot decode if
    the encoder's length differs.

Plain ``pytest`` runs every class and every role, and each variant in one of them; all are run with
``FULL=1``. To test one architecture:
``FULL=1 pytest tests/transformers/test_every_table.py -k "ernie-"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.architectures.schema import FRAMEWORKS, ModelClass
from tests.transformers import oracle, oracle_checks, transformers_5_checks
from tests.transformers.oracle import Loaded
from tests.transformers.submodel_checks import new_tensors
from tests.transformers.tiny import (
    LIBRARY,
    Tiny,
    add_noise,
    build,
    model_of,
    model_types_of_transformers_4,
    roles,
    sample,
    single_models,
    source_fields,
    stored_ties,
    tiny,
)
from tests.transformers.transformers_5 import Transformers5, differences

pytestmark = pytest.mark.peer

KINDS = {"pytorch": "safetensors", "tensorflow": "h5", "flax": "msgpack"}
PREFIXES = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}
PARTNER = {
    "vocab_size": 151,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 56,
    "max_position_embeddings": 70,
}
TOKENS: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}


def names(table: Iterable[tuple[str, str, str]]) -> list[str]:
    return ["-".join(filter(None, item)) for item in table]


@pytest.fixture(scope="session")
def partners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Return role → the BERT to compose each architecture with: its directory and the model."""
    actual = {}
    for role, name in (("encoder", "BertModel"), ("decoder", "BertLMHeadModel")):
        fields = {**PARTNER, "is_decoder": role == "decoder"}
        model = build(tiny("bert"), name, fields, seed=9)
        directory = tmp_path_factory.mktemp("partners") / role
        model.save_pretrained(directory)
        actual[role] = (directory, model)
    return actual


def written(directory: Path) -> list[str]:
    """Return the frameworks that a directory has weights for."""
    return [name for name in FRAMEWORKS if (directory / oracle.FILES[KINDS[name]]).is_file()]


def same(first: Loaded, second: Loaded, tied: Set[str] = frozenset()) -> None:
    """Assert that two PyTorch files have the same names and the same bits.

    The first may lack the tied tensors.
    """
    assert first.stored.keys() - tied == second.stored.keys() - tied
    for key, value in first.stored.items():
        assert np.array_equal(value, second.stored[key]), key


def faultless(loaded: list[Loaded], tolerance: float) -> None:
    """Assert that no framework reports a problem, and that all have the same values and outputs."""
    problems = [f"{item.kind}: {text}" for item in loaded for text in item.problems]
    for other in loaded[1:]:
        problems += oracle.compare(loaded[0], other, tolerance)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("architecture", "name", "variant"), sample(single_models()), ids=names(sample(single_models()))
)
def test_a_model_survives_a_round_trip(
    tmp_path: Path, transformers_5: Transformers5, architecture: str, name: str, variant: str
) -> None:
    """PyTorch → TensorFlow → Flax → PyTorch, each step loaded natively, bit-identical at the end.

    transformers 5 loads the result, and computes what 4.57 computes with the original.
    """
    spec = tiny(architecture)
    model = spec.table.models[name]
    if spec.transformers_4:
        transformers_5_checks.check_round_trip(tmp_path, transformers_5, spec, model, variant)
        return
    source = tmp_path / "source"
    build(
        spec, model.classes["pytorch"], source_fields(architecture, model, variant)
    ).save_pretrained(source)
    plan = converter.convert(source, tmp_path / "unused", dry_run=True).plan
    possible = [framework for framework in FRAMEWORKS if framework in plan_frameworks(plan)]
    assert possible[0] == "pytorch"
    steps = [_check(source, "pytorch", model, spec, variant)]
    directory = source
    for framework in [*possible[1:], "pytorch"]:
        out = tmp_path / framework
        converter.convert(directory, out, to=[framework])  # type: ignore[list-item]
        assert written(out) == [framework]
        steps.append(_check(out, framework, model, spec, variant))
        directory = out
    if spec.own_files.get(f"{model.name}-{variant}"):
        assert steps[0].problems
        faultless(steps[1:], spec.tolerance)
    else:
        faultless(steps, spec.tolerance)
    same(steps[0], steps[-1], stored_ties(architecture, model, variant))
    name = model.classes["pytorch"]
    batch = (
        spec.batch("pytorch", model=model.name, variant=variant)
        if spec.can_run(name, variant)
        else None
    )
    _same_in_transformers_5(transformers_5, spec, variant, directory, name, batch, steps[-1])


def plan_frameworks(plan: Any) -> set[str]:
    """Return the frameworks that a plan writes for."""
    actual = {path: framework for framework, kind in KINDS.items() for path in [oracle.FILES[kind]]}
    return {actual[file.path] for file in plan.files if file.path in actual}


def _check(directory: Path, framework: str, model: ModelClass, spec: Tiny, variant: str) -> Loaded:
    name = model.classes[framework]
    batch = (
        spec.batch(framework, model=model.name, variant=variant)
        if spec.can_run(name, variant)
        else None
    )
    return oracle_checks.load(directory, KINDS[framework], name, batch, spec.keep)


@pytest.mark.parametrize(
    ("architecture", "role", "variant"), sample(roles()), ids=names(sample(roles()))
)
def test_an_architecture_composes_in_its_role(
    tmp_path: Path,
    partners: dict[str, tuple[Path, Any]],
    transformers_5: Transformers5,
    architecture: str,
    role: str,
    variant: str,
) -> None:
    """Composed with BERT: every value is its source's, complete in every framework, same outputs.

    Outputs are compared with noise on every parameter, including new cross-attention; each
    framework's file leads back to the same PyTorch file.
    """
    spec = tiny(architecture)
    model = model_of(architecture, role)
    if spec.transformers_4:
        partner, _ = partners["decoder" if role == "encoder" else "encoder"]
        transformers_5_checks.check_composition(
            tmp_path, transformers_5, spec, role, variant, partner, TOKENS
        )
        return
    own = build(spec, model.classes["pytorch"], source_fields(architecture, model, variant), seed=1)
    own.save_pretrained(tmp_path / "own")
    other = "decoder" if role == "encoder" else "encoder"
    submodels = {role: (tmp_path / "own", own), other: partners[other]}
    out = tmp_path / "composed"
    converter.compose(
        submodels["encoder"][0], submodels["decoder"][0], out, seed=3, force=True, **TOKENS
    )

    config = json.loads((out / "config.json").read_text())
    composite = LIBRARY.composite(config["model_type"])
    possible = written(out)
    assert possible[0] == "pytorch"
    composed = oracle_checks.load(out, "safetensors", composite.classes["pytorch"], None, spec.keep)
    faultless([composed], spec.tolerance)
    _submodels_equal_sources(
        composed, {name: submodel for name, (_, submodel) in submodels.items()}, out
    )
    for framework in possible[1:]:
        same(composed, _back(out, framework, tmp_path / f"composed-{framework}", spec.keep))

    noisy = tmp_path / "noisy"
    add_noise(composed.model, seed=4, keep=spec.keep)
    composed.model.save_pretrained(noisy)
    converter.convert(noisy, tmp_path / "all")
    assert written(tmp_path / "all") == possible
    runs = spec.can_run(role, variant)
    results = []
    batches = {}
    specs, variants = {role: spec, other: tiny("bert")}, {role: variant}
    for framework in possible:
        batches[framework] = {
            **specs["encoder"].batch(framework, variant=variants.get("encoder", "")),
            **specs["decoder"].batch(
                framework, "decoder_", seed=1, variant=variants.get("decoder", "")
            ),
        }
        name, batch = composite.classes[framework], batches[framework] if runs else None
        results.append(
            oracle_checks.load(tmp_path / "all", KINDS[framework], name, batch, spec.keep)
        )
    faultless(results, spec.tolerance)
    name, batch = composite.classes["pytorch"], batches["pytorch"] if runs else None
    _same_in_transformers_5(
        transformers_5, spec, variant, tmp_path / "all", name, batch, results[0]
    )
    original = oracle_checks.load(
        noisy, "safetensors", composite.classes["pytorch"], None, spec.keep
    )
    same(original, results[0], stored_ties(architecture, model, variant, role))
    for framework in possible[1:]:
        same(
            results[0], _back(tmp_path / "all", framework, tmp_path / f"all-{framework}", spec.keep)
        )


def _same_in_transformers_5(
    transformers_5: Transformers5,
    spec: Tiny,
    variant: str,
    directory: Path,
    name: str,
    batch: dict[str, np.ndarray] | None,
    first: Loaded,
) -> None:
    """Assert that transformers 5 finds nothing wrong and computes the same, or fails as stated."""
    loaded = transformers_5.load(directory, name, batch, spec.keep)
    problems = differences(first, loaded, spec.tolerance) if loaded else [f"there is no {name}"]
    if why := spec.unsupported_by_transformers_5(variant, name):
        assert problems, f"transformers 5 can, although it is said: {why}"
    else:
        assert not problems, "\n".join(problems)


def _back(directory: Path, framework: str, path: Path, keep: tuple[str, ...]) -> Loaded:
    """Return the PyTorch tensors that one framework's file converts to."""
    from safetensors.numpy import load_file

    kind = KINDS[framework]
    with oracle.isolated(directory, kind) as alone:
        converter.convert(alone, path, to=["pytorch"])
    loaded = Loaded("safetensors")
    loaded.stored = oracle_checks.without(load_file(path / oracle.FILES["safetensors"]), keep)
    return loaded


def _submodels_equal_sources(loaded: Loaded, submodels: dict[str, Any], out: Path) -> None:
    """Assert that every source value is in its submodel, and that all others are new."""
    new = new_tensors(out)
    native = loaded.model.state_dict()
    left = set(native)
    for submodel, source in submodels.items():
        for key, value in source.state_dict().items():
            assert native[f"{submodel}.{key}"].equal(value), f"{submodel}.{key} is not its source's"
            left.discard(f"{submodel}.{key}")
    assert len(left) == len(new), (sorted(left), sorted(new))


@pytest.mark.parametrize("architecture", model_types_of_transformers_4())
def test_the_table_lists_the_existing_classes(architecture: str) -> None:
    """The classes it names exist, and a class it does not name in some framework does not."""
    import transformers

    for model in tiny(architecture).table.models.values():
        for framework in FRAMEWORKS:
            name = model.classes.get(framework)
            if name:
                assert getattr(transformers, name, None) is not None, name
            else:
                assert not hasattr(transformers, PREFIXES[framework] + model.name), model.name
