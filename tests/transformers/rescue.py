"""Every class of TensorFlow and Flax, saved by itself, as a PyTorch checkpoint.

``python -m tests.transformers.rescue [NAME…]`` runs the proof for every class, or for those of the
given model types, folders of transformers, or class names. Of each class a tiny model
(``tiny/*.json``) with noise on every weight is saved by the class, converted to PyTorch, loaded by
transformers 4.57 and 5, and run on the same inputs; outputs may differ by 1e-5 of their
scale, or by what rounding explains (`rounding.py`).

``rescue.json`` lists every class by the folder of transformers that has it, with the reason where
its file cannot become a PyTorch checkpoint, or ``""``. The command prints a line for each class and
a table, and fails if a class that has no reason fails or one with a reason does not. ``--list``
updates the file's list of classes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import time
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import converter
from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import ModelClass
from converter.models.framework_support import unsupported_reasons
from tests.transformers import oracle, oracle_checks
from tests.transformers.oracle import Loaded
from tests.transformers.rounding import scaled_difference
from tests.transformers.tiny import (
    DIRECTORY,
    LIBRARY,
    NOISE,
    Tiny,
    configuration,
    source_fields,
    tiny,
)
from tests.transformers.transformers_5 import Transformers5, differences, start_transformers_5

LIST = Path(__file__).with_name("rescue.json")
PREFIXES = {"tensorflow": "TF", "flax": "Flax"}
_SUBMODELS = {
    "encoder-decoder": ("bert", "", "gpt2"),
    "vision-encoder-decoder": ("vit", "", "bert"),
    "speech-encoder-decoder": ("wav2vec2", "stable", "bert"),
    "vision-text-dual-encoder": ("vit", "", "bert"),
    "rag": ("dpr", "", "bart"),
}
"""Composite → the architecture of its first submodel here, its variant, and the second's."""


_HEAD = re.compile("(?:For[A-Z].*|Head.*|Encoder|EncoderModel|Model)$")


@dataclass(frozen=True)
class SavedClass:
    """A class of TensorFlow or Flax, and the mapping table that names it."""

    folder: str
    """The folder of transformers that has it."""
    name: str
    reason: str = ""
    """Why its file cannot become a PyTorch checkpoint."""

    @property
    def framework(self) -> str:
        """Return its framework."""
        return "tensorflow" if self.name.startswith(PREFIXES["tensorflow"]) else "flax"

    @property
    def table(self) -> str:
        """Return the name of the table or composite that names it; ``""`` if none does."""
        return _named_classes().get(self.name, ("", None))[0]

    @property
    def is_described(self) -> bool:
        """Return whether there are a mapping table and a tiny model for it."""
        return self.table in _SUBMODELS or (DIRECTORY / f"{self.table}.json").is_file()

    @property
    def model(self) -> ModelClass:
        """Return its entry in the mapping table; raise KeyError if no table names it."""
        model = _named_classes()[self.name][1]
        assert model
        return model

    @property
    def kind(self) -> type:
        """Return the class itself."""
        import transformers

        kind: type = getattr(transformers, self.name)
        return kind


@dataclass
class Result:
    """How one class did."""

    problems: list[str]
    difference: float = 0.0
    compared: bool = False
    """If true, outputs were compared, and not values alone."""


@cache
def _named_classes() -> dict[str, tuple[str, ModelClass | None]]:
    """Return class → the table that names it, and the entry of a stand-alone model."""
    actual: dict[str, tuple[str, ModelClass | None]] = {}
    for name in LIBRARY.names:
        if LIBRARY.is_composite(name):
            actual |= dict.fromkeys(LIBRARY.composite(name).class_names, (name, None))
            continue
        for model in LIBRARY.architecture(name).models.values():
            for each in model.classes.values():
                actual.setdefault(each, (name, model))
    return actual


@cache
def listed_classes() -> tuple[SavedClass, ...]:
    """Return the classes in ``rescue.json``."""
    folders: dict[str, dict[str, str]] = json.loads(LIST.read_text())
    return tuple(
        SavedClass(folder, name, why)
        for folder, classes in folders.items()
        for name, why in classes.items()
    )


def existing_classes() -> dict[str, list[str]]:
    """Return folder → every public TensorFlow and Flax class of transformers that can be saved."""
    import transformers.models
    from transformers.modeling_flax_utils import FlaxPreTrainedModel
    from transformers.modeling_tf_utils import TFPreTrainedModel

    actual: dict[str, list[str]] = {}
    for stem, base in (("modeling_flax", FlaxPreTrainedModel), ("modeling_tf", TFPreTrainedModel)):
        for path in sorted(Path(transformers.models.__path__[0]).glob(f"*/{stem}_*.py")):
            module = import_module(f"transformers.models.{path.parent.name}.{path.stem}")
            actual.setdefault(path.parent.name, []).extend(
                name
                for name, kind in vars(module).items()
                if inspect.isclass(kind) and issubclass(kind, base)
                if kind.__module__ == module.__name__ and hasattr(transformers, name)
                if "pretrained" not in name.lower()
            )
    return {folder: sorted(names) for folder, names in sorted(actual.items())}


def sample() -> list[SavedClass]:
    """Return classes of every folder, and of every kind of head in each framework.

    The name of a class ends in its kind of head.
    """
    chosen = dict[SavedClass, None]()
    seen = set[tuple[str, ...]]()
    groups: dict[tuple[str, str], list[SavedClass]] = {}
    for saved in listed_classes():
        if saved.is_described and not saved.reason:
            groups.setdefault((saved.framework, saved.folder), []).append(saved)
    order = sorted(groups.items(), key=lambda item: (item[0][0] == "flax", len(item[1])))
    for (framework, folder), group in order:
        kinds = {saved: (framework, *_HEAD.findall(saved.name)) for saved in group}
        added = [saved for saved, kind in kinds.items() if kind not in seen]
        if not added and folder not in {saved.folder for saved in chosen}:
            added = group[:1]
        chosen |= dict.fromkeys(added)
        seen |= {*kinds.values()}
    return sorted(chosen, key=lambda saved: (saved.folder, saved.name))


def flat_noise(name: str, shape: Iterable[int]) -> np.ndarray:
    """Return the noise of a weight, which depends on its name only; variances stay positive."""
    stream = np.random.default_rng(zlib.crc32(name.encode()))
    values = (stream.standard_normal(tuple(shape)) * NOISE).astype(np.float32)
    return abs(values) if name.endswith(("moving_variance:0", "/var")) else values


def build(
    saved: SavedClass, config: Any, batch: Mapping[str, np.ndarray] | None, keep: tuple[str, ...]
) -> Any:
    """Build a model of a class in its own framework, with noise on every weight.

    It is run on a batch first, unless that is ``None``.
    """
    if saved.framework == "tensorflow":
        import tf_keras  # `tf.keras` may still be Keras 3

        tf_keras.backend.clear_session()
        model = saved.kind(config)
        if batch is None:
            model.build_in_name_scope()
        else:
            oracle_checks.run_tensorflow(model, batch)
        for number, weight in enumerate(model.weights):  # two may have the same name
            if weight.dtype.is_floating and not any(text in weight.name for text in keep):
                weight.assign_add(flat_noise(f"{number} {weight.name}", weight.shape))
        return model
    from flax.traverse_util import flatten_dict, unflatten_dict

    model = saved.kind(config)
    flat = flatten_dict(model.params, sep="/")
    noisy = {
        key: np.asarray(value)
        + (0 if any(text in key for text in keep) else flat_noise(key, value.shape))
        for key, value in flat.items()
    }
    model.params = unflatten_dict(noisy, sep="/")
    return model


@dataclass(frozen=True)
class _Setup:
    """The configuration of a class, and its inputs by framework."""

    name: str
    """The PyTorch class."""
    spec: Tiny
    config: Any
    batch: Mapping[str, Mapping[str, np.ndarray]]
    """Framework → inputs."""


def _set_up(saved: SavedClass, variant: str) -> _Setup:

    frameworks = (saved.framework, "pytorch")
    if saved.table in _SUBMODELS:
        return _set_up_composite(saved, frameworks)
    spec, model = tiny(saved.table), saved.model
    fields = source_fields(saved.table, model, variant)
    config = configuration(saved.table, saved.name, fields)
    batch = {each: spec.batch(each, model=model.name, variant=variant) for each in frameworks}
    return _Setup(model.classes["pytorch"], spec, config, batch)


def _set_up_composite(saved: SavedClass, frameworks: tuple[str, ...]) -> _Setup:
    name, variant, other = _SUBMODELS[saved.table]
    first, second = tiny(name), tiny(other)
    composite = LIBRARY.composite(saved.table)
    kind: Any = saved.kind.config_class  # type: ignore[attr-defined]
    own = saved.name.removeprefix(PREFIXES[saved.framework])
    if composite.wrappers:
        batch = rag_batch(name, other)
        return _Setup(own, first, rag_config(name, other), dict.fromkeys(frameworks, batch))
    longer = second.transformers_config(max_position_embeddings=70)  # than the encoder's output
    configs = [first.transformers_config(variant), longer]
    if composite.generates:
        tokens = {"decoder_start_token_id": 5, "pad_token_id": 0}
        config = kind.from_encoder_decoder_configs(*configs, **tokens)
    else:
        config = kind.from_vision_text_configs(*configs, projection_dim=28)
    prefix = "decoder_" if composite.generates else ""
    batches = {
        each: {**first.batch(each, variant=variant), **second.batch(each, prefix, seed=1)}
        for each in frameworks
    }
    return _Setup(own, first, config, batches)


DOCUMENTS = 2
"""How many documents RAG retrieves for a question."""


def rag_config(question_encoder: str, generator: str) -> Any:
    """Return the configuration of a tiny RAG with submodels of these architectures."""
    import transformers

    configs = [tiny(each).transformers_config() for each in (question_encoder, generator)]
    fields = (
        "vocab_size",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
    )
    own = {field: getattr(configs[1], field) for field in fields}
    return transformers.RagConfig.from_question_encoder_generator_configs(
        *configs, n_docs=DOCUMENTS, **own
    )


def rag_batch(question_encoder: str, generator: str) -> dict[str, np.ndarray]:
    """Return questions, documents as if they were retrieved, and the start of answers."""
    questions = tiny(question_encoder).batch("pytorch")["input_ids"]
    texts = [tiny(generator).batch("pytorch", seed=seed)["input_ids"] for seed in range(DOCUMENTS)]
    documents = np.concatenate(texts)
    scores = np.random.default_rng(0).standard_normal((len(questions), DOCUMENTS))
    return {
        "input_ids": questions,
        "attention_mask": np.ones_like(questions),
        "context_input_ids": documents,
        "context_attention_mask": np.ones_like(documents),
        "doc_scores": scores.astype(np.float32),
        "decoder_input_ids": tiny(generator).batch("pytorch", seed=9)["input_ids"],
    }


def rescue(
    saved: SavedClass, room: Path, transformers_5: Transformers5 | None, variant: str = ""
) -> Result:
    """Save a model of a class, convert it to PyTorch, load and run it; return what is wrong."""
    if not saved.is_described:
        return Result(["no mapping table and tiny model for it"])
    variant = variant or _first_variant(saved)
    own = Loaded(saved.framework)
    try:
        setup = _set_up(saved, variant)
        name, spec = setup.name, setup.spec
        runs = spec.can_run(saved.name, variant) and spec.can_run(name, variant)
        batch = setup.batch[saved.framework] if runs else None
        model = build(saved, setup.config, batch, spec.keep)
        if runs:
            run = getattr(oracle_checks, f"run_{saved.framework}")
            oracle._keep_outputs(own, run(model, setup.batch[saved.framework]))
        model.save_pretrained(room / "saved")
        converter.convert(room / "saved", room / "out", to=["pytorch"])
    except Exception as error:  # any exception is a finding
        return Result([f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"])
    batch = setup.batch["pytorch"] if own.outputs else None
    loaded = oracle_checks.load(room / "out", "safetensors", name, batch, spec.keep)
    result = Result(list(loaded.problems), compared=bool(own.outputs))
    common = sorted(own.outputs.keys() & loaded.outputs.keys())
    if own.outputs and not common and not result.problems:
        result.problems = ["no output in common"]
    for output in common:
        gap = scaled_difference(own.outputs[output], loaded.outputs[output])
        result.difference = max(result.difference, gap)
        if not oracle.agree(own, loaded, output, spec.tolerance, scaled_difference):
            result.problems.append(f"{output} differs by {gap:.1e} of its scale")
    if not own.outputs and not result.problems:
        result.problems = _changed_values(saved.framework, room)
    if transformers_5 and not spec.unsupported_by_transformers_5(variant, name):
        later = transformers_5.load(room / "out", name, batch, spec.keep)
        missing = [f"transformers 5 has no {name}"]
        result.problems += differences(loaded, later, spec.tolerance) if later else missing
    return result


def _changed_values(framework: str, room: Path) -> list[str]:
    """Return what differs if the PyTorch checkpoint is converted back."""
    converter.convert(room / "out", room / "back", to=[framework])  # type: ignore[list-item]
    kind = {"tensorflow": "h5", "flax": "msgpack"}[framework]
    read = {"h5": lambda path: oracle.read_h5(path)[0], "msgpack": oracle.read_msgpack}[kind]
    first, second = (read(room / each / oracle.FILES[kind]) for each in ("saved", "back"))
    equal = {n for n in first.keys() & second.keys() if np.array_equal(first[n], second[n])}
    return [f"{n} is not the same again" for n in sorted(({*first} | {*second}) - equal)]


def verdict(saved: SavedClass, result: Result, variant: str = "") -> tuple[bool, str]:
    """Return whether a class did as ``rescue.json`` says, and a line about it."""
    problems = "; ".join(result.problems)
    if saved.reason:
        if problems:
            return True, f"listed: {saved.reason} ({problems})"
        return False, f"WORKS, although it is listed: {saved.reason}"
    if problems and variant and (why := _unsupported(saved, variant)):
        return True, f"not supported: {why}"
    if problems:
        return False, f"FAILS: {problems}"
    return True, f"equal, {result.difference:.0e}" if result.compared else "values only"


def _first_variant(saved: SavedClass) -> str:
    """Return the configuration that a class is run with: the first one that it supports."""
    variants = () if saved.table in _SUBMODELS else tiny(saved.table).variants
    return next((name for name in ("", *variants) if not _unsupported(saved, name)), "")


def _unsupported(saved: SavedClass, variant: str) -> str:
    """Return why the framework of a class does not support a variant; ``""`` if it does."""
    if saved.table in _SUBMODELS:
        return ""
    spec = tiny(saved.table)
    config = ModelConfig(spec.table, spec.fields(variant), saved.table)
    return unsupported_reasons(config, saved.model).get(saved.framework, "")


def update_list() -> None:
    """Write the classes of the installed transformers to ``rescue.json``; keep the reasons."""
    old = {saved.name: saved.reason for saved in listed_classes()} if LIST.exists() else {}
    new = {
        folder: {name: old.get(name, "") for name in names}
        for folder, names in existing_classes().items()
    }
    LIST.write_text(json.dumps(new, indent=2, ensure_ascii=False) + "\n")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="model types, folders or classes; all by default")
    parser.add_argument("--list", action="store_true", help="update the list in rescue.json")
    parser.add_argument("--variants", action="store_true", help="run every variant as well")
    parser.add_argument("--only-4", action="store_true", help="leave out transformers 5")
    options = parser.parse_args()
    import jax
    import transformers

    jax.config.update("jax_disable_most_optimizations", True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    if options.list:
        update_list()
        return 0
    if options.only_4:
        return _run(options.names, options.variants, None)
    with start_transformers_5() as transformers_5:
        return _run(options.names, options.variants, transformers_5)


def _run(names: Collection[str], variants: bool, transformers_5: Transformers5 | None) -> int:
    counts: dict[str, list[bool]] = {}
    failed = 0
    for saved in listed_classes():
        if names and not {*names} & {saved.folder, saved.name, saved.table, saved.framework}:
            continue
        plain = not variants or not saved.is_described or saved.table in _SUBMODELS
        for variant in ("", *(() if plain else tiny(saved.table).variants)):
            start = time.process_time()
            with TemporaryDirectory(prefix="rescue-") as room:
                result = rescue(saved, Path(room), transformers_5, variant)
            good, text = verdict(saved, result, variant)
            failed += not good
            label = "-".join(filter(None, (saved.name, variant)))
            print(f"{label:44} {time.process_time() - start:5.1f} s  {text}", flush=True)
            if not variant:
                counts.setdefault(saved.folder, []).append(not result.problems)
    counts["all"] = [passed for folder in counts.values() for passed in folder]
    for folder, passed in counts.items():
        print(f"{folder:28} {sum(passed)} of {len(passed)}")
    print(f"{failed} not as rescue.json says")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
