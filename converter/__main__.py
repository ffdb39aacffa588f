"""The console script, and ``python -m converter``."""

import gc
import signal


def main() -> None:
    """Run the command line; until its error handling is imported, Ctrl-C ends it silently."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has been started yet
    # Collections while modules are imported take a tenth of the time of a short command.
    gc.set_threshold(50_000)
    from converter.cli import main as run

    run()


if __name__ == "__main__":
    main()
