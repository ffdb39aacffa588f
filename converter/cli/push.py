"""``converter push``."""

from __future__ import annotations

from typing import Any

from converter.cli.options import command as make_command
from converter.cli.writing import print_push_result
from converter.options import PushOptions

_EPILOG = """\b
Examples:
  converter push bert2gpt2 me/bert2gpt2 --private
  converter push bert2gpt2 me/bert2gpt2 --only '*.safetensors' --create-pr

Log in first with `hf auth login`, or set HF_TOKEN."""


@make_command("push", PushOptions, _EPILOG)
def command(json: bool, **values: Any) -> None:
    """Upload a checkpoint to the Hub.

    The files of DIR go to the repository REPO_ID in one commit; the repository is created if it
    does not exist. Files that are up to date there are not sent again, and a model card that you
    wrote there is kept.
    """
    from converter.commands.push import push

    print_push_result(push(**values), json=json)
