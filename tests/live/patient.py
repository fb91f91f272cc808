"""relayd that gives Redis time to answer, for tests in which no outage is meant.

python -m patient run ...
"""

from __future__ import annotations

import sys

from relayd.cli import main
from relayd.daemon.store import state_setup

state_setup.COMMAND = 30.0  # s

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
