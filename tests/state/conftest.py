"""Makes the finder of redis-server, which lives with the live tests, importable here."""

import sys
from pathlib import Path

for room in ("state", "live"):
    path = str(Path(__file__).parents[1] / room)
    if path not in sys.path:
        sys.path.insert(0, path)
