"""``--log-level``: what the library logs, on standard error while a command runs."""

from __future__ import annotations

import logging

import click

from converter.cli.console import say

LEVELS = ("debug", "info", "warning", "error")


class _Handler(logging.Handler):
    """Prints records as messages of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            say(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # a message must not end the work, see `logging.Handler`
            self.handleError(record)


def show_logs(ctx: click.Context, param: click.Parameter, level: str | None) -> None:
    """Print what is logged from `level` on, until the command ends."""
    if level is None or ctx.resilient_parsing:
        return
    logger = logging.getLogger("converter")
    handlers, before = list(logger.handlers), logger.level
    # The level of the command itself replaces that of the group before it.
    logger.handlers = [each for each in handlers if not isinstance(each, _Handler)] + [_Handler()]
    logger.setLevel(level.upper())

    def restore() -> None:
        logger.handlers = handlers
        logger.setLevel(before)

    # The outermost context is closed even if the words behind this option are wrong.
    ctx.find_root().call_on_close(restore)
