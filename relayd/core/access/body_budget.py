"""Body budget: how much memory the request bodies of a process may take, all together and of one key.

Rule: pure, and counted as the bytes come, so that nobody holds room by announcing a body. What is counted is given back
when the request is over: until then another account may have to be sent the same body.

Theory: a key with N calls at once has no use for more than N bodies of the largest size; more than that would be read
only to be refused. Keys without such a limit share: none may have more than half.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.config.snapshot import ApiKey, Server
from relayd.wire.refusal import Refusal

_RETRY = 1  # s


@attrs.define(eq=False)
class BodyBudget:
    """The bodies of one process.

    Args:
        memory: bytes that calls may use under a config, of which bodies get a fifth where it does not say.
        told: hears how much the bodies take, whenever that changes.
        others: what the bodies of other processes take that share the memory.
    """

    memory: Callable[[Server], int]
    told: Callable[[int], None] = lambda used: None
    others: Callable[[], int] = lambda: 0
    used: int = attrs.field(default=0, init=False)
    _by_key: dict[str, int] = attrs.field(factory=dict, init=False)
    _by_call: dict[str, tuple[str, int]] = attrs.field(factory=dict, init=False)

    def check(self, key: ApiKey, server: Server, size: int) -> None:
        """Whether `size` bytes more have room.

        Raises: Refusal 529 when all bodies together take what they may, 429 when the key's do.
        """
        total, share = body_bounds(key, server, self.memory(server))
        if self.used + size + self.others() > total:
            raise Refusal(
                status=529,
                message=f"Overloaded: request bodies take the {total} bytes of memory that they may",
                retry_after=_RETRY,
                code="body_memory",
            )
        if self._by_key.get(key.id, 0) + size > share:
            raise Refusal(
                status=429,
                message=f"Rate limit exceeded: {share} bytes of request bodies of this key at once",
                retry_after=_RETRY,
                code="key_body_memory",
            )

    def take(self, call: str, key: ApiKey, server: Server, size: int) -> None:
        """Count bytes that have come. Raises: Refusal as `check` does; then nothing is counted."""
        self.check(key, server, size)
        if not size:
            return
        self.used += size
        self.told(self.used)
        self._by_key[key.id] = self._by_key.get(key.id, 0) + size
        self._by_call[call] = (key.id, self._by_call.get(call, ("", 0))[1] + size)

    def give_back(self, call: str) -> None:
        """A call is over. A second time does nothing."""
        key, size = self._by_call.pop(call, ("", 0))
        if not size:
            return
        self.used -= size
        self.told(self.used)
        left = self._by_key[key] - size
        if left:
            self._by_key[key] = left
        else:
            del self._by_key[key]


def body_bounds(key: ApiKey, server: Server, memory: int) -> tuple[int, int]:
    """Bytes for all bodies, and for those of one key. A single body of the largest size always fits."""
    largest, total = server.max_request_body, body_total(server, memory)
    at_once = key.limits.concurrency
    return total, min(total, at_once * largest if at_once else max(total // 2, largest))


def body_total(server: Server, memory: int) -> int:
    """Bytes for all bodies."""
    return max(server.body_memory or memory // 5, server.max_request_body)
