"""Embeddings and heads as large as the tokenizer: ``--resize-embeddings``."""

from __future__ import annotations

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpecBuilder
from converter.architectures.schema import Conventions
from converter.errors import UnsupportedError
from converter.models.source_model import SourceModel
from converter.planning.tokenizer_files import TokenizerFiles

_MAX_GROWTH = 4
"""A tokenizer that asks for more times the embeddings than this is not the model's."""


def resize(source: SourceModel, conventions: Conventions) -> SourceModel:
    """`source` with as many embeddings as the tokenizer beside it has tokens.

    What depends on the size of the vocabulary (embeddings, heads, their biases) is cut or grows
    at its end when it is written.

    Raises:
        UnsupportedError: if no tokenizer tells its size, or it cannot be the model's.

    """
    architecture = source.architecture
    if "vocabulary" not in architecture.attributes:
        return source  # it reads images or sound
    field, old = str(architecture.attributes["vocabulary"]), source.config.attribute("vocabulary")
    size = TokenizerFiles(source.checkpoint.directory).size
    if size is None:
        raise UnsupportedError(
            f"{source.checkpoint.directory}: no file tells how many tokens the tokenizer has",
            remedy="Save a tokenizer.json or a vocabulary there, or leave --resize-embeddings out.",
        )
    if size == old:
        return source
    fits = isinstance(old, int) and field in architecture.config and size <= _MAX_GROWTH * old
    if not fits:
        raise UnsupportedError(
            f"{source.checkpoint.directory}: {old} embeddings cannot be resized to {size}"
        )
    config = ModelConfig(architecture, {**source.config.raw, field: size}, source.config.file)
    known = ModelSpecBuilder(conventions).model(config)
    for name in source.report.matched:
        then, now = (each.by_name[name].canonical.shape for each in (source.known, known))
        # All that is long and stands before the vocabulary's axis would be cut in its stead.
        axis = next((n for n, length in enumerate(then) if length != 1), 0)
        if then != now and (
            then[:axis] != now[:axis] or then[axis + 1 :] != now[axis + 1 :] or then[axis] != old
        ):
            raise UnsupportedError(f"{source.config.file}: {name} cannot be resized")
    return SourceModel(source.label, source.checkpoint, source.report, config, known)
