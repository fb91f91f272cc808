"""Workers that hang, logs that nobody reads, and an upstream that counts how often it is asked."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from builders import KEY
from crew_world import CrewDaemon, aside, calling, eventually
from daemon import PATIENCE, SIMULATOR, Daemon, key_text, start, write_tree
from ledger import Client, getting

from relayd.config.secrets.api_keys import mint

FOUR = mint(lambda size: b"4" * size)
KEYS = {"dev": key_text(), "four": key_text(FOUR, "[limits]\nconcurrency = 4\n")}
LISTED = {"data": [{"id": "claude-next-1", "display_name": "Next", "created_at": "2026-11-01T00:00:00Z"}]}
SERVER = "[server]\nworkers = 2\n"


class Listing(http.server.BaseHTTPRequestHandler):
    """An upstream that lists its models."""

    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path.partition("?")[0]] += 1
        body = json.dumps(LISTED).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Nothing."""


@pytest.fixture(scope="module")
def listing() -> Iterator[tuple[str, Counter[str]]]:
    served = type("Served", (Listing,), {"asked": Counter()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory, listing: tuple[str, Counter[str]]) -> Iterator[CrewDaemon]:
    place = tmp_path_factory.mktemp("hurried")
    (place / "secret").write_text("sk-ant-none")
    up = f'kind = "api-key"\nbase_url = "{listing[0]}"\n[credential]\nfile = "{place}/secret"\n'
    tree = write_tree(place, relay=SERVER, accounts={"sim": SIMULATOR + "priority = 1\n", "up": up}, keys=KEYS)
    control = place / "control.sock"
    found = {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    daemon = start(tree, "--control", str(control), "--no-watch", program=("-m", "hurried"), environment=found)
    try:
        yield CrewDaemon(daemon, control)
        daemon.stop()
    finally:
        daemon.kill()


async def all_know(crew: CrewDaemon) -> None:
    """Wait until every worker lists what the upstream has."""
    clients = [Client(crew.port) for _ in range(8)]  # four of each worker
    with trio.fail_after(PATIENCE):
        while not all(["claude-next-1" in await models(client) for client in clients]):  # noqa: ASYNC110
            await trio.sleep(0.02)
    for client in clients:
        await client.close()


async def models(client: Client) -> set[str]:
    answer = await client.ask(getting("/v1/models", KEY))
    return {one["id"] for one in json.loads(answer.body)["data"]}


async def test_one_process_asks_an_account_for_its_models_and_all_workers_know_them(
    hurried: CrewDaemon, listing: tuple[str, Counter[str]]
) -> None:
    await all_know(hurried)
    pid = (await aside(hurried.workers))[1]
    os.kill(pid, signal.SIGTERM)
    await aside(lambda: hurried.until(lambda: hurried.workers().get(1, pid) != pid, "a successor"))
    await all_know(hurried)
    assert listing[1] == {"/v1/models": 1}


async def test_a_worker_that_hangs_is_killed_and_replaced_and_its_slots_are_free(hurried: CrewDaemon) -> None:
    ended: list[bool] = []

    async def stream() -> None:
        client = Client(hurried.port)
        reply = await client.ask(calling(words=4000, between=0.1, stream=True, key=FOUR))
        ended.append(reply.whole)
        await client.close()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(stream)
        status = await eventually(lambda: hurried.status_with(calls=4, attempts=4))
        victim = max(status["workers"], key=lambda one: one["calls"])
        client = Client(hurried.port)
        assert (await client.ask(calling(key=FOUR))).status == 429
        os.kill(victim["pid"], signal.SIGSTOP)
        (hangs,) = await aside(lambda: hurried.daemon.wait_for("worker.hangs"))
        assert (hangs["worker"], hangs["pid"]) == (victim["worker"], victim["pid"])
        await aside(lambda: hurried.until(lambda: len(hurried.workers()) == 2, "another"))
        await eventually(lambda: len(ended) == victim["calls"])
        await aside(lambda: hurried.daemon.wait_for("state.buried"))
        await client.close()
        client = Client(hurried.port)
        assert (await client.ask(calling(key=FOUR))).status == 200
        await client.close()
        nursery.cancel_scope.cancel()
    assert not any(ended)


async def test_a_stop_says_which_worker_it_waits_for_and_kills_it_in_the_end(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=SERVER, accounts={"sim": SIMULATOR}, keys=KEYS)
    control = tmp_path / "control.sock"
    found = {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    options = ("--control", str(control), "--no-watch", "--state", f"sqlite:{tmp_path}/state/relayd.db")
    daemon = await aside(lambda: start(tree, *options, program=("-m", "hurried"), environment=found))
    crew = CrewDaemon(daemon, control)
    try:
        async with trio.open_nursery() as nursery:
            client = Client(crew.port)
            nursery.start_soon(client.ask, calling(words=4000, between=0.1, stream=True))
            status = await eventually(lambda: crew.status_with(calls=1, attempts=1))
            victim = max(status["workers"], key=lambda one: one["calls"])
            daemon.signal(signal.SIGTERM)
            await aside(lambda: daemon.wait_for("worker.draining", 2))
            os.kill(victim["pid"], signal.SIGSTOP)
            silent = {"worker": victim["worker"], "pid": victim["pid"], "stage": "draining"}
            await eventually(lambda: [one for one in daemon.events("worker.silent") if silent.items() <= one.items()])
            told = (await aside(crew.status))["ailments"]
            waited_for = f"worker {victim['worker']} says nothing while it is waited for, and is killed if that lasts"
            assert waited_for in told
            assert await aside(daemon.wait) == 0
            nursery.cancel_scope.cancel()
        (hangs,) = daemon.events("worker.hangs")
        assert hangs["pid"] == victim["pid"]
        booked = await aside(lambda: crew.verb("report", "--state", f"sqlite:{tmp_path}/state/relayd.db"))
        assert sum(row["requests"] for row in booked["rows"]) == 1
    finally:
        daemon.kill()


# --- logs


@attrs.define(eq=False)
class SlowReader:
    """Reads a pipe into a file, a little at a time, while it may."""

    pipe: int
    file: Path
    may: threading.Event = attrs.field(factory=threading.Event)

    def read(self) -> None:
        with self.file.open("ab", buffering=0) as file:
            while self.may.wait() and (data := os.read(self.pipe, 700)):
                file.write(data)


@contextlib.contextmanager
def into_a_pipe(place: Path) -> Iterator[tuple[CrewDaemon, SlowReader]]:
    """A daemon whose standard error is a pipe, as under Docker, journald or a shell."""
    tree = write_tree(place, relay=f'{SERVER}[upstream]\nmodels_every = "0s"\n')
    reading, writing = os.pipe()
    control, log = place / "control.sock", place / "daemon.log"
    command = [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0", "--no-watch"]
    process = subprocess.Popen([*command, "--control", str(control)], stderr=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    reader = SlowReader(reading, log)
    reader.may.set()
    log.touch()
    thread = threading.Thread(target=reader.read, daemon=True)
    thread.start()
    daemon = Daemon(process, log, tree)
    try:
        daemon.url = daemon.wait_for("daemon.listening")[0]["listen"][0]
        yield CrewDaemon(daemon, control), reader
    finally:
        daemon.kill()
        reader.may.set()
        thread.join(PATIENCE)
        os.close(reading)


async def ask_often(crew: CrewDaemon, times: int) -> list[int]:
    """Calls of both workers, one after the other; their statuses."""
    clients, statuses = await of_both(crew), []
    for number in range(times):
        reply = await clients[number % len(clients)].ask(calling())
        statuses.append(reply.status)
    for client in clients:
        await client.close()
    return statuses


async def of_both(crew: CrewDaemon) -> list[Client]:
    """Clients with a connection; each worker has one of them at least."""
    clients, workers = [], set()
    with trio.fail_after(PATIENCE):
        while len(workers) < 2:
            clients.append(Client(crew.port))
            workers.add((await clients[-1].ask(getting("/v1/models", KEY))).headers["relayd-request-id"][:12])
    return clients


async def test_lines_in_one_pipe_are_whole_and_a_reader_that_is_slow_or_gone_holds_nobody_up(tmp_path: Path) -> None:
    with into_a_pipe(tmp_path) as (crew, reader):
        reader.may.clear()  # what was under way is read, and nothing more
        asked: list[int] = []
        for number in range(3):  # lines of all three processes, 250 KB: a pipe holds 64
            (crew.daemon.tree / "keys.d" / f"more{number}.toml").write_text(key_text(f"another-{number}"))
            assert (await aside(crew.reload))["result"] == "applied"
            asked += await ask_often(crew, 170)
        assert asked == [200] * 510
        reader.may.set()
        done = await aside(lambda: crew.daemon.wait_for("call.done", 510))
        await aside(lambda: crew.daemon.wait_for("reload.applied", 3))
        assert all(json.loads(line)["event"] for line in crew.daemon.text().splitlines())
        assert len(done) == 510
        assert len({entry["id"][:12] for entry in done}) == 2  # of both workers

        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, reader.pipe)  # the only reading end is closed
        os.close(null)
        assert set(await ask_often(crew, 8)) == {200}
        status = await eventually(lambda: (found := crew.status())["ailments"] and found)
        assert any("lines of the log are lost: broken pipe" in one for one in status["ailments"])
        crew.daemon.signal(signal.SIGTERM)
        assert await aside(crew.daemon.wait) == 0


async def test_after_logrotate_and_a_signal_to_the_supervisor_all_write_to_the_new_file(tmp_path: Path) -> None:
    relay = f'{SERVER}[log]\nfile = "relayd.log"\n[upstream]\nmodels_every = "0s"\n'
    log, old, control = tmp_path / "relayd.log", tmp_path / "relayd.log.1", tmp_path / "control.sock"
    daemon = start(write_tree(tmp_path, relay=relay), "--control", str(control), "--no-watch", output=log)
    crew, asked = CrewDaemon(daemon, control), 0

    def calls(path: Path) -> list[str]:
        return [entry["id"][:12] for entry in Daemon(daemon.process, path, daemon.tree).events("call.done")]

    try:
        assert set(await ask_often(crew, 8)) == {200}
        log.rename(old)
        log.touch()
        daemon.signal(signal.SIGUSR1)
        asked, deadline = 8, time.monotonic() + PATIENCE
        while len(set(calls(log))) < 2:  # word of the new file comes to each worker in its own time
            assert time.monotonic() < deadline
            assert set(await ask_often(crew, 8)) == {200}
            asked += 8
        await aside(lambda: crew.until(lambda: len(calls(old)) + len(calls(log)) == asked, "every line"))
        await aside(daemon.stop)
        assert daemon.events("daemon.stopped")
    finally:
        daemon.kill()
