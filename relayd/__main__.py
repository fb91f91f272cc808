"""`python -m relayd` is `relayd`."""

import sys

from relayd.entry import main

sys.exit(main())
