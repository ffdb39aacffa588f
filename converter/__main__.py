"""The console script, and ``python -m converter``."""

import signal


def main() -> None:
    """Run the command line; until its error handling is imported, Ctrl-C ends it silently."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has been started yet
    from converter.cli import main as run

    run()


if __name__ == "__main__":
    main()
