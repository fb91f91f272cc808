"""What replaying a log costs: CPU of `relayd test --replay` for a log of many calls, with limits of every kind.

    python tests/bench/replay_cost.py [--calls 1000000] [--keys 300] [--base]

Writes a tree and a log into a temporary folder; the figures are CPU seconds and the largest memory of the child.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-1")
LIMITS = """\
[limits]
concurrency = 20
rate = { requests = 600, window = "1m" }
tokens_per_minute = 4000000
daily_cost = "40"
monthly_cost = "500"
windows = [{ window = "5h", tokens = 20000000 }, { window = "week", cost = "200" }]
"""


def make_tree(root: Path, keys: int) -> None:
    """A tree of three accounts and some keys with limits."""
    for folder in ("accounts.d", "keys.d"):
        (root / folder).mkdir(parents=True)
    (root / "relay.toml").write_text('schema = 1\nrealm = "bench"\n')
    for name in ("a", "b", "c"):
        (root / f"accounts.d/{name}.toml").write_text('kind = "simulator"\n')
    for at in range(keys):
        (root / f"keys.d/k{at}.toml").write_text(f'hashes = [{{ sha256 = "{at:064x}" }}]\n{LIMITS}')


def write_log(path: Path, calls: int, keys: int) -> None:
    """Calls of a fortnight, in order of their ends."""
    rng = random.Random(1)
    start = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp()
    with path.open("w") as log:
        for at in range(calls):
            began = start + at * 14 * 86400 / calls - rng.random() * 30
            stamp = datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec="milliseconds")
            line = {
                "time": stamp.replace("+00:00", "Z"), "level": "info", "event": "call.done", "id": f"req_{at:020d}",
                "status": 200, "outcome": "ok", "method": "POST", "path": "/v1/messages", "ms": rng.random() * 30000,
                "first_byte_ms": 812.5, "dialect": "anthropic", "key": f"k{rng.randrange(keys)}", "owner": "team",
                "client": "claude_code", "peer": "10.0.0.7", "account": rng.choice("abc"), "model": rng.choice(MODELS),
                "stream": True, "max_tokens": 32000, "tokens_in": 12, "tokens_out": rng.randrange(2000),
                "cache_write": 3000, "cache_read": 60000, "cost_usd": "0.031000", "bytes_in": 240000,
                "bytes_out": 9000, "revision": "0123456789ab",
            }  # fmt: skip
            log.write(json.dumps(line, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--base", action="store_true", help="compare two trees")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder, "tree"), Path(folder, "calls.log")
        make_tree(root, args.keys)
        write_log(log, args.calls, args.keys)
        command = [sys.executable, "-m", "relayd", "test", "--config", str(root), "--replay", str(log)]
        subprocess.run(command + (["--base", str(root)] if args.base else []), check=False)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{args.calls} calls: {used.ru_utime + used.ru_stime:.1f} s of CPU, {used.ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
