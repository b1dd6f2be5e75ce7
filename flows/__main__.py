"""The console script `safelight`, and `python -m flows`: the command line, quiet on Ctrl-C from the start."""

import signal


def main() -> None:
    """Run the command line; until a command's body runs, and after it, Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flows.cli import main as run

    run()


if __name__ == "__main__":
    main()
