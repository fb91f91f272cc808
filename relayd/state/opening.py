"""Opening a state store: the back end that `state.url` names. A back end is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relayd.state.contract import Store, StoreMisfit

CONNECT, COMMAND = 0.5, 0.2  # s that a daemon waits for Redis


def open_store(
    url: str,
    *,
    realm: str,
    clock: Callable[[], int],
    password: str = "",
    base: Path | None = None,
    patience: float = COMMAND,
    steady: Callable[[], float] | None = None,
) -> Store:
    """The store that a URL names; nothing is connected yet (`Store.check` does).

    Args:
        url: `sqlite:PATH`, or one of the Redis forms (redis_address.parse_redis_url).
        realm: names this deployment in Redis's keys.
        clock: Unix ms; Redis has its own.
        password: for Redis; "" for none.
        base: the directory from which a relative PATH counts.
        steady: see SqliteStore.
        patience: s to wait for an answer of Redis. A daemon has calls that wait meanwhile, a command has a person.
    Raises: StoreMisfit on a URL that cannot be read.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite":
        from relayd.state.redis import RedisStore

        return RedisStore(url, realm=realm, password=password, connect=max(CONNECT, patience), command=patience)
    if not rest:
        raise StoreMisfit("state.url: the path is missing [sqlite:var/relayd.db]")
    from relayd.state.sqlite import SqliteStore

    path = rest if rest == ":memory:" else str((base or Path()) / rest.removeprefix("//"))
    return SqliteStore(path, clock=clock, steady=steady)
