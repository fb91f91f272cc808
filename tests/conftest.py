"""Lets the tests of one room use what stands beside the tests of another."""

import sys
from pathlib import Path

for room in ("live", "daemon"):
    path = str(Path(__file__).parent / room)
    if path not in sys.path:
        sys.path.insert(0, path)
