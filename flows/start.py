"""The console script `safelight`: the folders of modules are put in order before anything is imported from them."""

import os
import sys


def main() -> None:
    """Run the command line."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # PYTHONPATH comes before it
    from infra.import_path import guard_imports

    del sys.path[0]
    guard_imports()
    from infra.memory_limits import spare_threads

    spare_threads()
    from flows.cli import main as run

    run()
