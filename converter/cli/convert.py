"""``converter convert``."""

from __future__ import annotations

from typing import Any

from converter.cli.options import command as make_command
from converter.cli.writing import PUSH, WRITING, write
from converter.options import ConvertOptions

_EPILOG = """\b
Examples:
  converter convert google-bert/bert-base-uncased bert-tf --to tensorflow,flax
  converter convert tensorflow-only rescued --to pytorch
  converter convert gpt2 gpt2-bf16 --pytorch-format both --dtype bfloat16
  converter convert bert2gpt2/tf_model.h5 combined --to pytorch"""


@make_command("convert", ConvertOptions, _EPILOG, (*PUSH, *WRITING))
def command(**values: Any) -> None:
    """Convert a checkpoint to other frameworks.

    OUTPUT becomes a directory with the model of SOURCE, stand-alone or encoder-decoder, in other
    frameworks, file formats or dtypes.
    """
    from converter.commands.convert import convert

    write(convert, values)
