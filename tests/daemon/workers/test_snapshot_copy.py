"""Copies of a config on their way to the workers: the same config, whatever is in it, and little of it twice."""

from __future__ import annotations

import os

import attrs
from builders import KEY

from relayd.config.compile import Memo, compile_tree
from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import Deny, ObjectId, Snapshot
from relayd.daemon.workers.snapshot_copy import copy_of, from_copy

RELAY = """schema = 1
realm = "test"
[clients.ours]
user_agent = '^ours/[0-9]+ (a|a)*$'
headers = { "X-App" = 'web|cli' }
[models]
fast = "claude-haiku-4-5"
"""
ACCOUNT = 'kind = "simulator"\n[model_map]\n"claude-a" = "claude-b"\n'
PRICES = (
    '[models."own-model"]\ninput = "1"\noutput = "2"\ncache_write_5m = "1"\ncache_write_1h = "1"\ncache_read = "1"\n'
)


def tree(keys: int, *, changed: int = -1) -> dict[str, bytes]:
    files = {"relay.toml": RELAY.encode(), "accounts.d/a.toml": ACCOUNT.encode(), "prices.toml": PRICES.encode()}
    for number in range(keys):
        digest = key_hash(KEY if not number else mint(lambda size, n=number: n.to_bytes(size, "big")))
        more = "enabled = false\n" if number == changed else ""
        files[f"keys.d/k{number}.toml"] = f'{more}hashes = [{{ sha256 = "{digest}" }}]\n'.encode()
    return files


def copied(snapshot: Snapshot, base: Snapshot | None = None, known: Snapshot | None = None) -> tuple[Snapshot, int]:
    """A snapshot after its way, and how many bytes it took."""
    fd = copy_of(snapshot, base)
    size = os.fstat(fd).st_size
    other = os.dup(fd)
    assert from_copy(other, known) == from_copy(os.dup(fd), known)  # several read one copy
    return from_copy(fd, known), size


def test_a_copy_is_the_same_config() -> None:
    snapshot = compile_tree(tree(3)).require()
    found, _ = copied(snapshot)

    assert found == snapshot
    assert found.keys_by_hash[bytes.fromhex(key_hash(KEY))][0] is found.keys[ObjectId("k0")]
    assert found.revision == snapshot.revision
    rule = found.relay.clients["ours"]
    assert rule.user_agent is not None
    assert rule.user_agent.search("ours/7 aaaa")
    assert not rule.user_agent.search("theirs/7")
    assert found.relay.clients["claude_code"] == snapshot.relay.clients["claude_code"]


def test_keys_that_stay_are_only_named() -> None:
    memo = Memo()
    old = compile_tree(tree(400), memo=memo).require()
    new = compile_tree(tree(400, changed=7), memo=memo).require()
    worker, whole = copied(old)
    found, little = copied(new, old, worker)

    assert found == new
    assert little < whole / 10
    assert found.keys[ObjectId("k8")] is worker.keys[ObjectId("k8")]
    assert not found.keys[ObjectId("k7")].enabled


def test_keys_that_go_and_what_is_denied() -> None:
    old = compile_tree(tree(5)).require()
    new = attrs.evolve(compile_tree(tree(2)).require(), deny=Deny(keys=(ObjectId("k1"),)))
    worker, _ = copied(old)

    assert copied(new, old, worker)[0] == new
