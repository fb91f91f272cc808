"""What an admin page costs, in CPU time of the daemon: every page, of a relay with many accounts and keys, under load.

    python tests/bench/admin_cost.py [ROUNDS] [ACCOUNTS] [KEYS] [CALLS A SECOND]    # 5 500 10000 100

Prints for each page the median CPU time that the daemon spent between request and answer beyond what the calls cost
meanwhile, the bytes, and what a call took at its slowest while pages were read. To stay under: 100 ms a page.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
import import_paths

import_paths.add()

import attrs
import httpx2
from builders import KEY
from daemon import SIMULATOR, Daemon, key_text, running, write_tree
from pages_world import Browser, browser, pages_table

from relayd.config.secrets.api_keys import mint

PATHS = (
    "/web",
    "/web/accounts",
    "/web/accounts/a001",
    "/web/keys",
    "/web/keys?q=42",
    "/web/keys/dev",
    "/web/calls",
    "/web/calls?key=dev",
    "/web/explain?key=dev&model=claude-haiku-4-5",
    "/web/reports",
    "/web/reports?by=owner",
    "/web/config",
    "/web/audit",
    "/web/accounts.json",
    "/web/overview.json",
)


def cpu(daemon: Daemon) -> float:
    """CPU time of the daemon so far, all threads, s. Source: proc(5), utime and stime of stat."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@attrs.define(eq=False)
class Load:
    """Calls at a steady rate, beside everything else."""

    url: str
    rate: float
    stopped: threading.Event = attrs.field(factory=threading.Event)
    times: list[float] = attrs.field(factory=list)

    def run(self) -> None:
        ask = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
        with httpx2.Client() as http:
            due = time.perf_counter()
            while not self.stopped.is_set():
                begun = time.perf_counter()
                http.post(f"{self.url}/v1/messages", headers={"x-api-key": KEY}, json=ask)
                self.times.append(time.perf_counter() - begun)
                due = max(due + 1 / self.rate, time.perf_counter() - 1)
                self.stopped.wait(max(0.0, due - time.perf_counter()))


def large_tree(root: Path, accounts: int, keys: int) -> Path:
    return write_tree(
        root,
        relay=pages_table(),
        accounts={
            f"a{number:03}": f'{SIMULATOR}name = "Account {number}"\n[simulator]\nwords = 3\n'
            for number in range(accounts)
        },
        keys={
            "dev": key_text(),
            **{
                f"k{number:05}": key_text(
                    mint(lambda size, number=number: number.to_bytes(size, "big")),
                    f'owner = "Team {number % 40}"\nlimits = {{ daily_requests = 100, daily_cost = "5.00" }}',
                )
                for number in range(keys - 1)
            },
        },
    )


def main(rounds: int, accounts: int, keys: int, rate: int) -> None:
    with tempfile.TemporaryDirectory() as place, running(large_tree(Path(place), accounts, keys)) as daemon:
        one = browser(daemon)
        assert one.sign_in().url.path == "/web"
        load = Load(daemon.url, rate)
        thread = threading.Thread(target=load.run)
        thread.start()
        try:
            time.sleep(2)
            before, done = cpu(daemon), len(load.times)
            time.sleep(4)
            calm = load.times[done:]
            each = (cpu(daemon) - before) / len(calm)
            print(f"{accounts} accounts, {keys} keys; {len(calm) / 4:.0f} calls a second, {each * 1e3:.1f} ms CPU each")
            load.times.clear()
            for path in PATHS:
                print(f"{path:46}", *_measured(daemon, one, path, rounds, each, load))
        finally:
            load.stopped.set()
            thread.join()
        for name, times in (("alone", calm), ("beside pages", load.times)):
            middle, late = (sorted(times)[len(times) * share // 100] * 1e3 for share in (50, 99))
            print(f"a call {name}: median {middle:.1f} ms, 99 % {late:.1f} ms")


def _measured(daemon: Daemon, one: Browser, path: str, rounds: int, each: float, load: Load) -> tuple[str, str, str]:
    """Many requests together, for the kernel counts in hundredths of a second."""
    one.get(path)
    walls, size = [], 0
    before, done = cpu(daemon), len(load.times)
    for _ in range(rounds):
        start = time.perf_counter()
        answer = one.get(path)
        walls.append(time.perf_counter() - start)
        size = len(answer.content)
        assert answer.status_code == 200, answer.text[:300]
    spent = cpu(daemon) - before - each * (len(load.times) - done)
    return f"{spent / rounds * 1e3:6.1f} ms CPU", f"{statistics.median(walls) * 1e3:6.1f} ms", f"{size / 1e3:5.0f} kB"


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["5", "500", "10000", "100"][len(sys.argv) - 1 :])))
