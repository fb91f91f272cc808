"""A tree with a state file beside it, in which a test has booked calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from builders import KEY, OTHER_KEY
from cli_tree import Tree, make_tree

from relayd.config.secrets.api_keys import key_hash
from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Answer, Op, Settle
from relayd.state.sqlite import SqliteStore


def make_booked(root: Path) -> Tree:
    """Two accounts and two keys; nothing is booked yet."""
    tree = make_tree(root)
    tree.write("accounts.d/spare.toml", 'kind = "simulator"\npriority = 60\nmodels = ["claude-haiku-*"]\n')
    tree.write(
        "keys.d/dev.toml",
        f'owner = "crew"\nmodels = ["claude-*"]\nhashes = [{{ sha256 = "{key_hash(KEY)}" }}]\n'
        '[limits]\ntotal_cost = "50.00"\nwindows = [{ window = "5h", requests = 100 }]\n',
    )
    tree.write("keys.d/other.toml", f'hashes = [{{ sha256 = "{key_hash(OTHER_KEY)}" }}]\nclients = ["claude_code"]\n')
    return tree


def tell(tree: Tree, *ops: Op) -> list[Answer]:
    """Ask the state file, as a daemon would."""
    store = SqliteStore(str(tree.root / "var/relayd.db"), clock=lambda: round(time.time() * 1000))
    store.check()
    try:
        return store.apply(ops)
    finally:
        store.close()


def book(tree: Tree, **fields: Any) -> None:
    """Book one call."""
    record = {"day": "2026-11-22", "key": "dev", "account": "sample", "model": "claude-haiku-4-5", **fields}
    number = tell(tree, Settle(call=f"req_{time.monotonic_ns()}", record=UsageRecord(**record)))
    assert len(number) == 1
