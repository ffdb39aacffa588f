"""``converter compose``."""

from __future__ import annotations

from typing import Any

from converter.cli.options import command as make_command
from converter.cli.writing import PUSH, WRITING, write
from converter.options import ComposeOptions

_EPILOG = """\b
Examples:
  converter compose google-bert/bert-base-uncased openai-community/gpt2 bert2gpt2
  converter compose bert gpt2 planned --dry-run
  converter compose bert gpt2 fp16 --dtype float16 --seed 7
  converter compose bert bert bert2bert --to pytorch,flax
  converter compose bert bert shared --preset bertshare
  converter compose bert gpt2 rnd2gpt --random encoder
  converter compose bert gpt2 short --layers decoder=last:1

Here bert and gpt2 are directories with config.json and weights. `converter families` lists the
presets. The decoder's cross-attention is newly initialized, or a copy of its self-attention
(BERT), and the projection between different hidden sizes is new as well: train the result
before you use it."""


@make_command("compose", ComposeOptions, _EPILOG, (*PUSH, *WRITING))
def command(**values: Any) -> None:
    """Join an encoder and a decoder into one checkpoint.

    OUTPUT becomes a directory that PyTorch, TensorFlow and Flax load as an encoder-decoder model,
    with the same numbers in all of them.
    """
    from converter.commands.compose import compose

    write(compose, values)
