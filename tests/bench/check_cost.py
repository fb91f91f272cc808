"""What a large tree costs: `check_cost.py [KEYS] [ACCOUNTS]` (10,000 and 500).

Makes a tree in a temporary directory, then times `relayd check` as a process, a first load, and reloads after one edit.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relayd.config.compile import Memo, compile_tree
from relayd.config.diff import diff, model_digest
from relayd.config.guard import held
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.source.tree import FileCache, Tree, read_coherent, signature


def make_tree(root: Path, keys: int, accounts: int) -> None:
    """A tree as an operator with many teams would have it."""
    identity = new_identity()
    (root / "relay.toml").write_text(
        f'schema = 1\nrealm = "bench"\n[limits]\nconcurrency = 20\n[secrets]\n'
        f'recipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
    )
    for folder in ("accounts.d", "keys.d"):
        (root / folder).mkdir()
    for number in range(accounts):
        binding = account_binding("bench", f"a{number}", "https://api.anthropic.com")
        value = seal(Secret("sk-ant-" + "x" * 100), binding, [identity.public])
        (root / "accounts.d" / f"a{number}.toml").write_text(
            f'kind = "api-key"\nname = "Account {number}"\ngroups = ["g{number % 50}"]\nmodels = ["claude-*"]\n'
            f'max_concurrency = 10\n[credential]\nsealed = "{value}"\n'
        )
    for number in range(keys):
        folder = root / "keys.d" / f"team{number % 100}"
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(f"bench {number}".encode()).hexdigest()
        (folder / f"k{number}.toml").write_text(
            f'name = "Key {number}"\nowner = "team{number % 100}"\ncreated = 2026-11-22T00:00:00Z\n'
            f'expires = 2027-11-22T00:00:00Z\nhashes = [{{ sha256 = "{digest}", hint = "sk-relay-{number:08}" }}]\n'
            f'groups = ["g{number % 50}"]\nmodels = ["claude-sonnet-4-5", "claude-haiku-*"]\n'
            f'[limits]\nconcurrency = {number % 10 + 1}\nrate = {{ requests = 100, window = "1m" }}\ndaily_cost = "5"\n'
        )


def start() -> tuple[float, float]:
    return time.perf_counter(), sum(os.times()[:4])


def timed(what: str, began: tuple[float, float]) -> None:
    """Elapsed time, and CPU time of this process and its children, which a busy machine changes less."""
    now = start()
    print(f"{what:<48} {now[0] - began[0]:7.3f} s, {now[1] - began[1]:6.2f} s CPU")


def reload_once(root: Path, memo: Memo, cache: FileCache, running: object = None) -> object:
    """What the daemon does between a poke and the swap, without the quiet period."""
    began = start()
    tree = read_coherent(root, wall=time.time, sleep=time.sleep, deadline=time.time() + 30, quiet=0, cache=cache)
    assert isinstance(tree, Tree), tree
    timed("  read", began)
    step = start()
    snapshot = compile_tree(tree.files, memo=memo, reading=tree.problems).require()
    timed("  compile", step)
    if running is not None:
        step = start()
        changes = diff(running, snapshot)
        held(running, snapshot, changes)
        timed(f"  diff and guard ({changes.summary()})", step)
        step = start()
        model_digest(snapshot)
        timed("  model digest", step)
    timed("reload" if running is not None else "first load", began)
    return snapshot


def main(keys: int, accounts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        root.mkdir()
        make_tree(root, keys, accounts)
        time.sleep(2.1)  # so that stamps are old enough to be trusted by the cache
        began = start()
        done = subprocess.run([sys.executable, "-m", "relayd", "check", str(root)], capture_output=True, text=True)
        timed("relayd check, the process", began)
        print(done.stdout[-200:] + done.stderr[-300:])
        began = start()
        signature(root)
        timed("stat signature", began)
        memo, cache = Memo(), FileCache()
        running = reload_once(root, memo, cache)
        for number in range(3):
            path = root / "keys.d" / "team1" / "k1.toml"
            path.write_text(path.read_text().replace('"Key', f'"{number} Key'))
            running = reload_once(root, memo, cache, running)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers or [10_000, 500]))
