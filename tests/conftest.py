"""Lets the tests of one room use what stands beside the tests of another."""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import import_paths

import_paths.add()

# No test sees or makes an identity of the person who runs it; commands that a test starts inherit this.
_OWN = tempfile.TemporaryDirectory(prefix="relayd-tests-")
os.environ["XDG_CONFIG_HOME"] = _OWN.name
