"""How soon a push runs: `push_cost.py [KEYS] [PUSHES]` (10,000 and 5).

A node with a daemon, and a laptop on the same machine that pushes a new key over the file system. Printed for each
push: the time from the start of `git push` until the first call with that key is answered, and until git has ended;
and the CPU time of git with its hooks, and of the daemon. The two work one after the other, so that their sum is about
what a push takes on a machine with nothing else to do.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from daemon import Daemon, key_text, running
from push_node import Laptop, make_laptop, make_node
from reload_world import key_of

ASK = json.dumps(
    {"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
).encode()


def fill(laptop: Laptop, keys: int) -> None:
    """Keys as an operator with many teams would have them."""
    for number in range(keys):
        digest = hashlib.sha256(f"bench {number}".encode()).hexdigest()
        laptop.write(
            f"keys.d/team{number % 100}/many{number}.toml",
            f'name = "Key {number}"\nowner = "team{number % 100}"\ncreated = 2026-11-22T00:00:00Z\n'
            f'hashes = [{{ sha256 = "{digest}", hint = "sk-relay-{number:08}" }}]\n'
            f'models = ["claude-sonnet-4-5", "claude-haiku-*"]\n'
            f'[limits]\nconcurrency = {number % 10 + 1}\nrate = {{ requests = 100, window = "1m" }}\n',
        )
    laptop.commit("many keys")


def first_call(daemon: Daemon, key: str) -> float:
    """Ask with a key until it is accepted; the time when the answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    while True:
        connection.request("POST", "/v1/messages", ASK, {"x-api-key": key, "anthropic-version": "2023-06-01"})
        answer = connection.getresponse()
        answer.read()
        if answer.status == 200:
            return time.perf_counter()
        time.sleep(0.025)


def daemon_cpu(daemon: Daemon) -> float:
    """CPU time of the daemon so far, s. Source: proc_pid_stat(5), utime and stime."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def push_once(laptop: Laptop, daemon: Daemon, number: int) -> None:
    laptop.write(f"keys.d/new{number}.toml", key_text(key_of(number)))
    laptop.commit()
    began, cpu, ours = time.perf_counter(), daemon_cpu(daemon), sum(os.times()[2:4])
    command = ["git", "-C", str(laptop.root), "push", "node", "HEAD:main"]
    pushing = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    served = first_call(daemon, key_of(number)) - began
    cpu = daemon_cpu(daemon) - cpu
    said = pushing.communicate()[1]
    ended = time.perf_counter() - began
    assert pushing.returncode == 0, said
    ours = sum(os.times()[2:4]) - ours
    print(f"served after {served:6.3f} s, git ended after {ended:6.3f} s; CPU: git {ours:.2f} s, daemon {cpu:.2f} s")


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    pushes = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    os.environ["XDG_CONFIG_HOME"] = tempfile.gettempdir()
    with tempfile.TemporaryDirectory() as folder:
        node = make_node(Path(folder) / "node")
        laptop = make_laptop(Path(folder) / "laptop", str(node.bare))
        fill(laptop, keys)
        began = time.perf_counter()
        assert laptop.push().code == 0
        print(f"{keys:,} keys; the first push, without a daemon: {time.perf_counter() - began:.1f} s")
        with running(node.tree) as daemon:
            for number in range(1, pushes + 1):
                push_once(laptop, daemon, number)


if __name__ == "__main__":
    main()
