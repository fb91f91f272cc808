"""relayd that waits long for its Redis, for tests in which a busy machine must not look like an outage.

python -m patient run ...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relayd.cli import main
from relayd.daemon.store import state_setup

COMMAND = 30.0  # s
PROGRAM = ("-m", "patient")
FOUND = {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}  # the environment it needs

state_setup.COMMAND = COMMAND

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
