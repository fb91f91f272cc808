"""Entry point of the command `relayd`: says what is needed where Python is too old, instead of a traceback.

Rule: it parses on Python 3.6, and imports nothing else of relayd before it has looked at the version.
"""

import sys

NEEDED = (3, 11)


def main() -> int:
    """Run the command line. Returns the exit code."""
    if sys.version_info < NEEDED:
        found, needed = ".".join(map(str, sys.version_info[:2])), ".".join(map(str, NEEDED))
        sys.stderr.write(f"relayd needs Python {needed} or newer; this is {found} ({sys.executable})\n")
        return 1
    from relayd.cli import main as run

    return run()
