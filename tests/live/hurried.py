"""relayd that notices a hung worker soon, for tests that stop one.

python -m hurried run ...
"""

from __future__ import annotations

import sys

from relayd.cli import main
from relayd.daemon.node import Intervals

SILENCE = 12.0  # s; a worker that is well speaks every second

Intervals.__init__.__kwdefaults__["silence"] = SILENCE

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
