"""``converter split``."""

from __future__ import annotations

from typing import Any

from converter.cli.options import command as make_command
from converter.cli.writing import WRITING, write
from converter.options import SplitOptions

_EPILOG = """\b
Examples:
  converter split bert2gpt2 parts
  converter split bert2gpt2 parts16 --to pytorch --dtype float16"""


@make_command("split", SplitOptions, _EPILOG, WRITING)
def command(**values: Any) -> None:
    """Split a checkpoint into encoder and decoder.

    SOURCE is an encoder-decoder model; OUTPUT/encoder and OUTPUT/decoder become checkpoints that
    load by themselves. `converter compose` of the two restores SOURCE bit for bit.
    """
    from converter.commands.split import split

    write(split, values)
