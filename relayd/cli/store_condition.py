"""The condition of a state store: how it answers, where it keeps what is counted, and what is wrong with that.

Rule: a store that is not there is not made, and what is wrong with it is a fact, not an exception.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

from relayd.cli.store import now_ms, store_of
from relayd.config.snapshot import Snapshot
from relayd.core.checkup import StoreState
from relayd.daemon.paths import state_file
from relayd.state.contract import Ping, Pong, Store, StoreMisfit, StoreUnavailable


def store_state(args: argparse.Namespace, snapshot: Snapshot) -> StoreState:
    """Ask the store of a tree how it is.

    Args:
        args: of a verb with `--config` and `--state`.
    """
    url = args.state or snapshot.relay.state.url
    path = state_file(url, args.config)
    if path is not None and not path.exists():
        return StoreState(name=f"sqlite:{path}", version="no file yet (the daemon makes it)")
    if path is not None:
        try:
            return _of_file(path)
        except OSError as error:
            return StoreState(name=f"sqlite:{path}", error=str(error))
    try:
        store = store_of(args, snapshot.relay.realm, snapshot.relay.state)
    except (StoreMisfit, ValueError) as error:
        return StoreState(name=url, error=str(error))
    try:
        return _asked(store)
    except (StoreUnavailable, StoreMisfit, OSError) as error:
        return StoreState(name=store.name, error=str(error))
    finally:
        store.close()


def _of_file(path: Path) -> StoreState:
    """A file is only looked at: opening it for use would bring its tables up to date under a daemon of old."""
    from relayd.state.sqlite_file import MIGRATIONS, inspect_file

    version, wrong = inspect_file(str(path))
    found = StoreState(
        name=f"sqlite:{path}",
        version=f"tables of version {version}",
        size=path.stat().st_size,
    )
    if wrong:
        return attrs.evolve(found, error=f"{found.name}: {wrong} [restore a backup: `relayd restore FILE`]")
    newest = len(MIGRATIONS)
    if version > newest:
        text = f"{found.name}: tables of version {version}, but this relayd knows only {newest} [run the newer relayd]"
        return attrs.evolve(found, error=text)
    return found


def _asked(store: Store) -> StoreState:
    from relayd.state.redis import RedisStore

    warnings = store.check()
    began = time.perf_counter()
    (answer,) = store.apply([Ping()])
    seconds = time.perf_counter() - began
    ahead = (answer.now - now_ms()) / 1000 if isinstance(answer, Pong) else 0.0
    told: Mapping[str, str] = store.info() if isinstance(store, RedisStore) else {}
    return StoreState(
        name=store.name,
        seconds=seconds,
        version=f"Redis {told.get('redis_version', '?')}" if isinstance(store, RedisStore) else "in memory",
        size=int(told.get("used_memory", "0")),
        persistent=told["aof_enabled"] == "1" if "aof_enabled" in told else None,
        warnings=tuple(warnings),
        ahead=ahead,
    )
