"""The console script `safelight`: the command line, with modules found in the right order, quiet on Ctrl-C at once."""

import os
import signal
import sys


def main() -> None:
    """Run the command line; until a command's body runs, and after it, Ctrl-C ends the process without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.insert(0, root)  # PYTHONPATH comes before it
    from infra.machine.import_path import secure_import_path

    del sys.path[0]
    secure_import_path()
    from infra.machine.memory_limits import limit_blas_threads

    limit_blas_threads()
    from flows.cli.main import run_app

    run_app()
