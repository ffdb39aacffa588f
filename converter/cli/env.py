"""``converter env``."""

from __future__ import annotations

from converter.cli.console import emit_json, print_result
from converter.cli.options import command as make_command
from converter.options import EnvOptions

_EPILOG = """\b
Examples:
  converter env
  converter env --json"""


@make_command("env", EnvOptions, _EPILOG)
def command(json: bool) -> None:
    """Print versions and settings, for the report of a bug.

    Shows the versions of converter, Python and the libraries, the machine, and the environment
    variables that matter. Secrets are replaced by ***; nothing is sent anywhere.
    """
    from converter.commands.env import env

    result = env()
    if json:
        emit_json(result.to_dict())
    else:
        print_result(str(result))
