"""Where a program of a test runs: on this machine's loopback, or in a network namespace of its own."""

from __future__ import annotations

import attrs


@attrs.frozen
class Site:
    """A place for a server.

    Args:
        host: where the others reach it.
        near: where the test itself does.
        enter: words before a command that start it there.
    """

    host: str = "127.0.0.1"
    near: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


HERE = Site()
