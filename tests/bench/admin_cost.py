"""What admin pages cost: the CPU of each, how long each holds the loop, and what calls feel of pages beside them.

    python tests/bench/admin_cost.py [ROUNDS] [ACCOUNTS] [KEYS] [CALLS A SECOND]    # 5 500 10000 200

Prints for each page the CPU time that the daemon spent on it beyond what the calls cost meanwhile, the longest turn of
the loop's own thread while it was made, and its bytes; then what a call took alone and beside pages that are fetched
back to back, by turns. To stay under: 100 ms of CPU a page, 5 ms a turn.

Theory: calls come from a process of their own, for one that also reads pages would measure itself. A turn is counted in
CPU time of its thread, which a busy machine does not stretch.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
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
from builders import KEY
from daemon import SIMULATOR, Daemon, key_text, start, write_tree
from pages_world import Browser, browser, pages_table

from relayd.config.secrets.api_keys import mint
from relayd.core.quota.usage_record import COUNTS
from relayd.state.report import days_up_to
from relayd.state.sqlite_file import open_file

PATHS = (
    "/web",
    "/web?span=month",
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
TURNS = 6  # of calls alone and calls beside pages, s each
# The daemon, which writes each turn of its loop that took more than a millisecond of its thread into a file.
WATCHED = """\
import os, sys, time
import trio
class Turns(trio.abc.Instrument):
    def before_task_step(self, task):
        self.began = time.thread_time()
    def after_task_step(self, task):
        took = time.thread_time() - self.began
        if took > 0.001:
            place.write(f"{took * 1e3:.1f} {task.name}\\n")
place = open(os.environ["BENCH_TURNS"], "a", buffering=1)
from relayd.cli import main
real = trio.run
trio.run = lambda *given, **named: real(*given, **{**named, "instruments": [*named.get("instruments", ()), Turns()]})
sys.exit(main(sys.argv[1:]))
"""


def cpu(daemon: Daemon) -> float:
    """CPU time of the daemon so far, all threads, s. Source: proc(5), utime and stime of stat."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@attrs.define(eq=False)
class Load:
    """Calls at a steady rate from another process, which says of each when it began and what it took."""

    process: subprocess.Popen[str]
    ended: list[tuple[float, float]] = attrs.field(factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            began, took = line.split()
            self.ended.append((float(began), float(took)))

    def within(self, begin: float, end: float) -> list[float]:
        return [took for began, took in list(self.ended) if begin <= began < end]


def send_calls(port: int, rate: float) -> None:
    """Ask at a rate until killed, from four connections."""

    def ask() -> None:
        words = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
        body, headers = json.dumps(words), {"x-api-key": KEY, "content-type": "application/json"}
        line = http.client.HTTPConnection("127.0.0.1", port)
        due = time.time()
        while True:
            began = time.time()
            line.request("POST", "/v1/messages", body, headers)
            answer = line.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            os.write(1, f"{began} {time.time() - began}\n".encode())
            due = max(due + 4 / rate, time.time() - 0.1)
            time.sleep(max(0.0, due - time.time()))

    for _ in range(4):
        threading.Thread(target=ask).start()


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


def fill_books(tree: Path, keys: int) -> None:
    """A week in which every key was used each day."""
    rows = [
        (
            day,
            f"k{number:05}",
            f"a{number % 500:03}",
            "claude-haiku-4-5",
            *(0 if name == "unpriced" else number % 50 for name in COUNTS),
        )
        for day in days_up_to(time.strftime("%Y-%m-%d", time.gmtime()), 7)
        for number in range(keys - 1)
    ]
    with contextlib.closing(open_file(str(tree / "var" / "relayd.db"), 1000)) as file:
        file.execute("BEGIN")
        file.executemany(f"INSERT INTO books VALUES ({', '.join('?' * len(rows[0]))})", rows)
        file.execute("COMMIT")


def main(rounds: int, accounts: int, keys: int, rate: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        turns = Path(place) / "turns"
        turns.touch()
        tree = large_tree(Path(place), accounts, keys)
        fill_books(tree, keys)
        daemon = start(tree, program=("-c", WATCHED), environment={"BENCH_TURNS": str(turns)})
        words = (sys.executable, __file__, "--load", str(daemon.port), str(rate))
        load = Load(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        threading.Thread(target=load.read).start()
        try:
            one = browser(daemon)
            one.http.headers["connection"] = "keep-alive"
            assert one.sign_in().url.path == "/web"
            time.sleep(2)
            before, began = cpu(daemon), time.time()
            time.sleep(4)
            each = (cpu(daemon) - before) / len(load.within(began, time.time()))
            print(f"{accounts} accounts, {keys} keys; {rate} calls a second, {each * 1e3:.1f} ms CPU each")
            for path in PATHS:
                print(f"{path:46}", *_measured(daemon, one, path, rounds, each, load, turns))
            _by_turns(one, load)
        finally:
            load.process.kill()
            load.process.wait()
            daemon.kill()


def _measured(
    daemon: Daemon, one: Browser, path: str, rounds: int, each: float, load: Load, turns: Path
) -> tuple[str, str, str]:
    """Many requests together, for the kernel counts in hundredths of a second."""
    one.get(path)
    size, told = 0, turns.stat().st_size
    before, began = cpu(daemon), time.time()
    for _ in range(rounds):
        answer = one.get(path)
        size = len(answer.content)
        assert answer.status_code == 200, answer.text[:300]
    spent = cpu(daemon) - before - each * len(load.within(began, time.time()))
    with turns.open() as file:
        file.seek(told)
        longest = max((float(line.split()[0]) for line in file), default=0.0)
    return f"{spent / rounds * 1e3:6.1f} ms CPU", f"{longest:6.1f} ms at once", f"{size / 1e3:5.0f} kB"


def _by_turns(one: Browser, load: Load) -> None:
    alone: list[float] = []
    beside: list[float] = []
    fetched = 0
    for _ in range(TURNS):
        began = time.time()
        time.sleep(1.5)
        alone += load.within(began, time.time() - 0.1)
        began = time.time()
        while time.time() - began < 1.5:
            one.get(PATHS[fetched % len(PATHS)])
            fetched += 1
        beside += load.within(began, time.time() - 0.1)
    for name, times in (("alone", alone), (f"beside {fetched / TURNS / 1.5:.0f} pages a second", beside)):
        middle, late = (sorted(times)[len(times) * share // 100] * 1e3 for share in (50, 99))
        print(f"a call {name}: median {middle:.1f} ms, 99 % {late:.1f} ms ({len(times)})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        try:
            send_calls(int(sys.argv[2]), float(sys.argv[3]))
        except BrokenPipeError:
            os._exit(0)
    else:
        main(*(int(word) for word in (sys.argv[1:] + ["5", "500", "10000", "200"][len(sys.argv) - 1 :])))
