"""Import paths: fakes, builders and worlds stand beside the tests that use them most; every test may import them."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
APART = {"bench", "corpus", "js", "programs"}


def add() -> None:
    """Make the modules of every folder of tests importable by their bare names."""
    folders = {path.parent for path in HERE.rglob("*.py") if not APART.intersection(path.relative_to(HERE).parts)}
    sys.path[:0] = sorted(str(folder) for folder in folders if str(folder) not in sys.path)
