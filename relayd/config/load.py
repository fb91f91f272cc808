"""Loading: read and compile a tree in one go, for commands. The daemon does the two in steps of its own."""

from __future__ import annotations

from pathlib import Path

from relayd.config.compile import Compiled, compile_tree
from relayd.config.source.tree import read_tree


def load_tree(directory: Path) -> Compiled:
    """Read and compile the tree at `directory`, as it is now. Raises nothing: all problems are in the result."""
    reading = read_tree(directory)
    return compile_tree(reading.files, reading=reading.problems)
