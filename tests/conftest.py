"""Lets the tests of one room use what stands beside the tests of another."""

import os
import sys
import tempfile
from pathlib import Path

for room in ("live", "daemon", "cli"):
    path = str(Path(__file__).parent / room)
    if path not in sys.path:
        sys.path.insert(0, path)

# No test sees or makes an identity of the person who runs it; commands that a test starts inherit this.
_OWN = tempfile.TemporaryDirectory(prefix="relayd-tests-")
os.environ["XDG_CONFIG_HOME"] = _OWN.name
