"""``converter verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.cli.console import emit_json, is_quiet, print_message, print_report, progress_bar
from converter.cli.options import NEW_FILE, GroupedOption
from converter.cli.options import command as make_command
from converter.options import VerifyOptions

_EPILOG = """\b
Examples:
  converter verify bert2gpt2
  converter verify bert2gpt2 --against bert --against gpt2
  converter verify bert2gpt2 --html bert2gpt2.html
  converter verify bert2bert --json

If both sources have the same architecture, list the encoder first."""

_HTML = GroupedOption(
    ["--html"],
    metavar="FILE",
    type=NEW_FILE,
    help="Write an HTML report: origins, distributions, differences, warnings.",
)


@make_command("verify", VerifyOptions, _EPILOG, (_HTML,))
def command(html: str | None, json: bool, **values: Any) -> int:
    """Verify a finished checkpoint.

    Its files are complete and hold the same values bit for bit, exactly the tensors of the mapping
    table are there, tied weights agree, token ids are inside the vocabularies, and the manifest is
    correct. Checkpoints that other tools made have no manifest; all else is verified for them, too.
    The exit code is 1 if anything is wrong.
    """
    from converter.commands.verify import verify

    with progress_bar() as progress:
        verification = verify(**values, value_report=html is not None, progress=progress)
    if html is not None:
        from converter.report.html import page
        from converter.storage.atomic_directory import write_file

        write_file(Path(html), page(verification).encode(errors="backslashreplace"))
        if not is_quiet():
            print_message(f"{html}: written")
    if json:
        emit_json(verification.to_dict())
    else:
        from converter.report.verification import describe_verification

        print_report(describe_verification(verification), styled=True)
    return int(not verification.verified)
