"""A relayd with workers, asked as an operator asks; and what its clients ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio
from builders import KEY
from churn import Ask
from daemon import PATIENCE, Daemon, alive, control_answer
from fleet import noon_zone
from pages_world import pages_table

ADMIN = pages_table(more='proxy_user_header = "X-Remote-User"', users={"alice": "viewer"})
UPSTREAM = '[upstream]\nmodels_every = "0s"\n'
RELAY = f'schema = 1\nrealm = "test"\n{ADMIN}\n{UPSTREAM}[state]\ntimezone = "{noon_zone()}"\n'


def relay_text(workers: int = 2, server: str = "", relay: str = "") -> str:
    """relay.toml."""
    return f"{RELAY}{relay}\n[server]\nworkers = {workers}\n{server}\n"


def calling(
    *, words: int = 3, between: float = 0.0, stream: bool = False, key: str = KEY, address: str = "192.0.2.1"
) -> bytes:
    """A call from an address that the simulator answers with so many words, each so many s after the other."""
    asked = {"model": "claude-haiku-4-5", "max_tokens": 5000, "stream": stream}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/messages HTTP/1.1\r\nhost: relay\r\nx-api-key: {key}\r\nx-forwarded-for: {address}\r\n"
    head += "content-type: application/json\r\n"
    head += f"x-simulate-words: {words}\r\nx-simulate-between: {between}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@attrs.define
class CrewDaemon:
    """A daemon whose processes are looked at."""

    daemon: Daemon
    control: Path

    @property
    def port(self) -> int:
        return self.daemon.port

    def asked(self, verb: str) -> Any:
        """One answer of the control socket."""
        return control_answer(self.control, verb)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.asked("status")["status"]
        return found

    def status_with(self, calls: int, attempts: int | None = None) -> dict[str, Any] | None:
        """The status, once so many calls are under way, and so many attempts on accounts."""
        status = self.status()
        tried = sum(row["in_flight"] for row in status["accounts"])
        return status if status["calls"] == calls and attempts in (None, tried) else None

    def workers(self, stage: str = "serving") -> dict[int, int]:
        """pids of workers by their places."""
        return {one["worker"]: one["pid"] for one in self.status()["workers"] if one["stage"] == stage}

    def well_with(self, places: set[int]) -> bool:
        """Whether these workers serve, and nobody else. Until then too all is well."""
        status = self.status()
        assert status["well"], status["ailments"]
        return {one["worker"] for one in status["workers"] if one["stage"] == "serving"} == places

    def counters(self) -> dict[str, float]:
        """All that only ever counts up: samples by their names and labels; and each name's sum."""
        lines = self.asked("metrics")["metrics"].splitlines()
        kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
        found: dict[str, float] = {}
        for line in lines:
            sample, _, value = line.rpartition(" ")
            name = re.split("[{ ]", sample)[0]
            family = re.sub("_(bucket|sum|count)$", "", name)
            if kinds.get(name) == "counter" or kinds.get(family) == "histogram":
                found[sample] = float(value)
                if sample != name:
                    found[name] = found.get(name, 0.0) + float(value)
        return found

    def verb(self, *words: str) -> Any:
        """What a command says as JSON; also one that needs no daemon."""
        command = [sys.executable, "-m", "relayd", *words, "--json", "--config", str(self.daemon.tree)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def write(self, *, workers: int = 2, server: str = "", relay: str = "") -> None:
        """Another relay.toml."""
        fresh = self.daemon.tree / ".relay.toml.new"
        fresh.write_text(relay_text(workers, server, relay))
        fresh.replace(self.daemon.tree / "relay.toml")

    def reload(self) -> dict[str, Any]:
        """Ask for a reload and wait for the verdict."""
        result: dict[str, Any] = self.asked("reload")["result"]
        return result

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.daemon.wait_until(condition, what)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = [line for line in self.asked("metrics")["metrics"].splitlines() if not line.startswith("#")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.split("[{ ]", line)[0] == name)


def simulated(number: int) -> Ask:
    """The nth call of a load: short answers, and now and then a stream."""
    return Ask(calling(words=5, between=0.01, stream=True) if number % 3 == 0 else calling())


async def eventually(condition: Callable[[], Any]) -> Any:
    """Ask, beside the load, until the answer is something."""
    with trio.fail_after(PATIENCE):
        while not (found := await aside(condition)):  # noqa: ASYNC110 - another process tells nobody here
            await trio.sleep(0.02)
    return found


async def aside(act: Callable[[], Any]) -> Any:
    """Something that blocks, beside the load."""
    return await trio.to_thread.run_sync(act)


def wait_gone(pids: Iterator[int] | list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    for pid in pids:
        while alive(pid):
            assert time.monotonic() < deadline, f"{pid} still runs"
            time.sleep(0.02)
