"""Workers: several processes serve as one node: their calls are shared out, counted together and led by one verdict."""

from __future__ import annotations

import calendar
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from builders import KEY
from churn import Churn
from crew_world import CrewDaemon, aside, calling, eventually, relay_text, simulated, wait_gone
from daemon import PATIENCE, SIMULATOR, alive, children_of, key_text, running, start, write_tree
from fleet import noon_zone
from ledger import Client, Reply, getting
from pages_world import browser
from ports import free_port
from waiting import until

from relayd.cli.status import in_words
from relayd.config.secrets.api_keys import mint

OTHER = mint(lambda size: b"o" * size)
FEW = mint(lambda size: b"f" * size)
TIME = "%Y-%m-%dT%H:%M:%S"
KEYS = {"dev": key_text(), "other": key_text(OTHER), "few": key_text(FEW, "[limits]\nmonthly_requests = 6\n")}


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrewDaemon]:
    place = tmp_path_factory.mktemp("crew")
    tree = write_tree(place, accounts={"sim": SIMULATOR}, keys=KEYS)
    (tree / "relay.toml").write_text(relay_text())
    control = place / "control.sock"
    with running(tree, "--control", str(control), "--no-watch") as daemon:
        yield CrewDaemon(daemon, control)


@asynccontextmanager
async def streaming(crew: CrewDaemon, count: int, words: int = 4000) -> AsyncIterator[list[Reply]]:
    """So many streams under way. At the end of the block their clients leave, unless the streams have ended."""
    replies: list[Reply] = []

    async def one() -> None:
        client = Client(crew.port)
        replies.append(await client.ask(calling(words=words, between=0.1, stream=True)))
        await client.close()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
        yield replies
        nursery.cancel_scope.cancel()


# --- one node


async def test_calls_are_shared_out_and_counted_together(crew: CrewDaemon) -> None:
    before = await aside(lambda: crew.metric("relayd_calls_total"))
    async with streaming(crew, 16):
        status = await eventually(lambda: crew.status_with(calls=16, attempts=16))
        parts = [one["calls"] for one in status["workers"]]
        assert sum(parts) == status["connections"]["open"] == 16
        assert min(parts) >= 1, parts  # how evenly, is for the machine too: the rule is in test_board
        assert await aside(lambda: crew.metric("relayd_calls_in_flight")) == 16
        assert await aside(lambda: crew.metric("relayd_worker_calls_in_flight")) == 16
    await eventually(lambda: crew.status_with(calls=0))
    await eventually(lambda: crew.metric("relayd_calls_total") >= before + 16)  # receipts come just after
    assert await aside(lambda: crew.metric("relayd_calls_total")) == before + 16
    assert {one["revision"] for one in status["workers"]} == {status["running"]["revision"]}


def test_the_status_in_words_and_the_overview_page_show_the_workers(crew: CrewDaemon) -> None:
    status = crew.status()
    visitor = browser(crew.daemon)
    page = visitor.get("/web", x_remote_user="alice")
    document = visitor.get("/web/overview.json", x_remote_user="alice").json()
    visitor.http.close()
    assert page.status_code == 200
    assert "Processes of this node" in page.text
    assert len(document["workers"]) == 2
    for one in status["workers"]:
        assert f"worker {one['worker']}: pid {one['pid']}, " in in_words(status)
        assert str(one["pid"]) in page.text


def test_doctor_looks_at_each_worker(crew: CrewDaemon) -> None:
    found = crew.verb("doctor", "--offline", "--control", str(crew.control))["findings"]
    texts = [one["text"] for one in found]
    assert any(text.startswith("2 workers, and ") for text in texts)
    for pid in crew.workers().values():
        assert any(text.startswith(f"the daemon (process {pid}) may have ") for text in texts)


async def test_reloads_under_load_fail_no_call_and_all_run_the_new_config_at_the_verdict(crew: CrewDaemon) -> None:
    load, clients = Churn(crew.port, simulated), [Client(crew.port) for _ in range(8)]
    async with load.running():
        for number in range(12):
            await load.more(10)
            crew.write(relay=f'[models]\nalias{number} = "claude-haiku-4-5"\n')
            result = await aside(crew.reload)
            assert result["result"] == "applied", result
            answers = [await client.ask(getting("/v1/models", KEY)) for client in clients]
            assert {answer.headers["relayd-config"] for answer in answers} == {result["revision"]}
    assert load.failed == []
    for client in clients:
        await client.close()


async def test_a_broken_tree_is_rejected_once_and_a_revoked_key_is_refused_by_all(crew: CrewDaemon) -> None:
    clients = [Client(crew.port) for _ in range(8)]

    async def statuses(key: str) -> set[int]:
        return {(await client.ask(calling(key=key))).status for client in clients}

    assert await statuses(OTHER) == {200}
    revision = (await aside(crew.status))["running"]["revision"]
    crew.write(server="header_timeout = 5\n")
    deny = crew.daemon.tree / "deny.toml"
    deny.write_text('keys = ["other"]\n')
    result = await aside(crew.reload)
    assert result["result"] == "rejected"
    assert len(crew.daemon.wait_for("reload.rejected")) == 1
    assert await statuses(OTHER) == {401}  # at once, by every process, though the rest of the tree is broken
    assert await statuses(KEY) == {200}
    status = await aside(crew.status)
    assert status["running"]["revision"] == revision

    deny.unlink()
    crew.write()
    assert (await aside(crew.reload))["result"] == "applied"
    assert await statuses(OTHER) == {200}
    for client in clients:
        await client.close()


async def test_bad_keys_of_an_address_are_counted_together(crew: CrewDaemon) -> None:
    request = calling(key=mint(lambda size: b"z" * size), address="192.0.2.9")
    first, *others = [Client(crew.port) for _ in range(8)]  # four of each worker
    assert [(await first.ask(request)).status for _ in range(31)] == [401] * 30 + [429]
    heard = 0  # by the other worker itself, while word of those 30 may be on its way
    for client in others:
        while (await client.ask(request)).status == 401:
            heard += 1
            assert heard < 30, "each worker counts for itself"
            await trio.sleep(0.5)
    for client in (first, *others):
        await client.close()


async def test_a_limit_that_calls_of_several_workers_have_used_up_is_told_by_the_node(crew: CrewDaemon) -> None:
    for _ in range(6):
        client = Client(crew.port)
        assert (await client.ask(calling(key=FEW))).status == 200
        await client.close()
    (told,) = await aside(lambda: crew.daemon.wait_for("limit.reached"))
    assert told["key"] == "few"


async def test_more_and_fewer_workers_without_a_failed_call(crew: CrewDaemon) -> None:
    load = Churn(crew.port, simulated)
    async with load.running():
        for workers in (3, 1, 2):
            crew.write(workers=workers)
            assert (await aside(crew.reload))["result"] == "applied"
            places = set(range(1, workers + 1)) if workers > 1 else set()
            await aside(lambda places=places: crew.until(lambda: crew.well_with(places), f"{places}"))
            await load.more(40)
    assert load.failed == []
    assert (await aside(crew.status))["restart_required"] == []


async def test_an_account_that_workers_use_is_seen_to_be_used(crew: CrewDaemon) -> None:
    client = Client(crew.port)
    before = int(time.time())
    assert (await client.ask(calling())).status == 200
    await client.close()
    visitor = browser(crew.daemon)

    def used() -> bool:
        (row,) = visitor.get("/web/accounts.json", x_remote_user="alice").json()["rows"]
        return row["last_used"] is not None and calendar.timegm(time.strptime(row["last_used"][:19], TIME)) >= before

    await aside(lambda: crew.until(used, "the account's last use on its page"))
    visitor.http.close()


async def test_a_worker_that_is_too_large_is_replaced_without_a_failed_call(crew: CrewDaemon) -> None:
    before = await aside(crew.workers)
    load = Churn(crew.port, simulated)
    async with load.running():
        crew.write(server='max_memory = "20MiB"\n')  # less than the program itself
        await aside(crew.reload)
        await aside(lambda: crew.until(lambda: not set(crew.workers().values()) & set(before.values()), "successors"))
        crew.write()
        await aside(crew.reload)
        await load.more(20)
    assert load.failed == []
    assert await aside(lambda: crew.metric("relayd_workers_replaced_total")) >= 2
    await aside(lambda: crew.until(lambda: crew.workers().keys() == {1, 2}, "two workers"))


async def test_a_worker_that_is_told_to_end_finishes_its_calls_and_is_replaced(crew: CrewDaemon) -> None:
    pid = (await aside(crew.workers))[1]
    load = Churn(crew.port, simulated)
    async with load.running():
        await load.more(20)
        os.kill(pid, signal.SIGTERM)
        await aside(lambda: crew.until(lambda: crew.workers().get(1, pid) != pid, "a successor"))
        await load.more(20)
    assert load.failed == []
    wait_gone([pid])


async def test_a_killed_worker_takes_only_its_own_calls_with_it(crew: CrewDaemon) -> None:
    async with streaming(crew, 12) as ended:
        status = await eventually(lambda: crew.status_with(calls=12))
        victim, other = status["workers"]
        os.kill(victim["pid"], signal.SIGKILL)
        await eventually(lambda: len(ended) >= victim["calls"])
        client = Client(crew.port)
        assert (await client.ask(calling())).status == 200
        await client.close()
        place = victim["worker"]
        await aside(lambda: crew.until(lambda: crew.workers().get(place, victim["pid"]) != victim["pid"], "another"))
        await eventually(lambda: crew.status_with(calls=other["calls"]))  # ours has just been answered
        assert len(ended) == victim["calls"]
        assert not any(reply.whole for reply in ended)
    died = crew.daemon.wait_for("worker.died")[-1]
    assert (died["pid"], died["code"]) == (victim["pid"], -signal.SIGKILL)


async def test_no_counter_goes_down_when_workers_are_replaced_and_no_call_is_counted_twice(crew: CrewDaemon) -> None:
    last = await aside(crew.counters)
    for kill in (signal.SIGTERM, signal.SIGKILL):
        before, load, pids = last.get("relayd_calls_total", 0.0), Churn(crew.port, simulated), await aside(crew.workers)
        async with load.running():
            for place, pid in pids.items():
                await load.more(10)
                os.kill(pid, kill)
                while (await aside(crew.workers)).get(place, pid) == pid:
                    now = await aside(crew.counters)
                    assert {one: (last[one], now.get(one)) for one in last if now.get(one, -1.0) < last[one]} == {}
                    last = now
        if kill == signal.SIGTERM:  # of one that is killed the calls that have just ended are in the books alone
            aim = before + load.ended
            await eventually(lambda aim=aim: crew.metric("relayd_calls_total") >= aim)  # receipts come just after
            assert load.failed == []
        last = await aside(crew.counters)
        counted = last["relayd_calls_total"] - before
        assert counted <= load.ended
    fds, most = [await aside(lambda name=name: crew.metric(name)) for name in ("process_open_fds", "process_max_fds")]
    assert fds < most


async def test_the_fork_server_is_made_anew_when_it_dies_and_workers_are_replaced_as_before(crew: CrewDaemon) -> None:
    log, load = crew.daemon, Churn(crew.port, simulated)
    async with load.running():
        for round_ in (1, 2):
            servers = log.events("worker.fork_server")
            more = 1 + len(servers)
            os.kill(servers[-1]["pid"], signal.SIGKILL)
            died = await aside(lambda n=round_: log.wait_for("worker.fork_server_died", n))
            assert (died[-1]["pid"], died[-1]["code"]) == (servers[-1]["pid"], -signal.SIGKILL)
            pid = (await aside(crew.workers))[1]
            os.kill(pid, signal.SIGTERM)
            await aside(lambda pid=pid: crew.until(lambda: crew.workers().get(1, pid) != pid, "a successor"))
            await aside(lambda n=more: log.wait_for("worker.fork_server", n))
            await load.more(10)
    assert load.failed == []


# --- the end


# A sitecustomize.py: while the file is there, it holds up each Python that has its word on the command line.
HOLDING = """\
import os, pathlib, sys, time
hold = pathlib.Path(os.environ["TEST_HOLD"])
while hold.exists() and hold.read_text() in sys.orig_argv:
    time.sleep(0.01)
"""


@attrs.frozen
class Hold:
    """Holds up the programs that the daemon of `fresh` begins."""

    file: Path

    def up(self, word: str) -> None:
        """Those with this word on the command line, from now on."""
        self.file.write_text(word)

    def no_more(self) -> None:
        """Let them go on."""
        self.file.unlink()


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold")


@pytest.fixture
def fresh(tmp_path: Path, hold: Hold) -> Iterator[CrewDaemon]:
    relay = f'[server]\nworkers = 2\n[upstream]\nmodels_every = "0s"\n[state]\ntimezone = "{noon_zone()}"\n'
    tree = write_tree(tmp_path, relay=relay)
    control, site = tmp_path / "control.sock", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOLDING)
    found = {"PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}", "TEST_HOLD": str(hold.file)}
    options = ("--listen", f"127.0.0.1:{free_port()}", "--control", str(control), "--no-watch")
    daemon = start(tree, *options, environment=found)
    try:
        yield CrewDaemon(daemon, control)
    finally:
        daemon.kill()


@attrs.define
class OpenStream:
    """A stream of which the first words are here."""

    sock: socket.socket
    told: bytes = b""

    def more(self, until: bytes) -> bytes:
        """All that has come, once it holds these bytes or is over."""
        while until not in self.told and (data := self.sock.recv(65536)):
            self.told += data
        return self.told

    def whole(self) -> bytes:
        """All of it."""
        told = self.more(b"0\r\n\r\n")
        self.sock.close()
        return told


def begin_stream(port: int, words: int) -> OpenStream:
    stream = OpenStream(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
    stream.sock.sendall(calling(words=words, between=0.05, stream=True))
    stream.more(b"content_block_delta")
    return stream


def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_stop_lets_the_workers_finish_and_a_second_signal_cuts_them(fresh: CrewDaemon) -> None:
    short, pids = [begin_stream(fresh.port, 20) for _ in range(4)], list(fresh.workers().values())
    endless = [begin_stream(fresh.port, 4000) for _ in range(4)]
    fresh.daemon.signal(signal.SIGTERM)
    fresh.daemon.wait_for("worker.draining", 2)
    assert all(b"message_stop" in stream.whole() for stream in short)
    fresh.until(lambda: refuses(fresh.port), "new clients to be refused")
    fresh.daemon.signal(signal.SIGTERM)
    assert all(b"event: error" in stream.whole() for stream in endless)
    assert fresh.daemon.wait() == 0
    wait_gone(pids)
    assert len(fresh.daemon.events("call.done")) == 8


def test_workers_outlive_a_killed_supervisor_only_for_their_calls(fresh: CrewDaemon) -> None:
    streams, pids = [begin_stream(fresh.port, 20) for _ in range(4)], list(fresh.workers().values())
    fresh.daemon.kill()
    assert all(b"message_stop" in stream.whole() for stream in streams)
    wait_gone(pids)
    assert not any(map(alive, pids))
    with running(fresh.daemon.tree, "--listen", f"127.0.0.1:{fresh.port}", "--control", str(fresh.control)):
        pass


def test_a_process_manager_that_loses_patience_leaves_no_orphan_and_every_call_in_the_books(fresh: CrewDaemon) -> None:
    pids = list(fresh.workers().values())
    endless = [begin_stream(fresh.port, 4000) for _ in range(4)]
    fresh.daemon.signal(signal.SIGTERM)
    fresh.daemon.wait_for("worker.draining", 2)
    fresh.daemon.kill()  # as pm2 does after kill_timeout, and Docker after --stop-timeout
    assert all(b"event: error" in stream.whole() for stream in endless)
    wait_gone(pids)
    report = fresh.verb("report", "--from", "yesterday")
    (row,) = report["rows"]
    assert (row["requests"], report["pending"]) == (4, 0)
    assert row["output"] > 0


# --- a new program


async def test_the_program_on_disk_takes_over_in_the_same_process_without_a_failed_call(fresh: CrewDaemon) -> None:
    old, load = await aside(fresh.workers), Churn(fresh.port, simulated)
    async with load.running():
        await load.more(10)
        fresh.daemon.signal(signal.SIGUSR2)
        await aside(lambda: fresh.daemon.wait_for("daemon.listening", 2))
        new = await aside(fresh.workers)
        assert not set(new.values()) & set(old.values())
        await aside(lambda: wait_gone(list(old.values())))
        await load.more(20)
    assert load.failed == []
    assert (await aside(fresh.status))["pid"] == fresh.daemon.process.pid
    assert fresh.daemon.process.poll() is None


async def test_a_stop_waits_for_the_workers_of_programs_before_and_a_second_one_cuts_them(fresh: CrewDaemon) -> None:
    short, old = await aside(lambda: begin_stream(fresh.port, 60)), []
    endless = await aside(lambda: begin_stream(fresh.port, 4000))
    for start_ in (2, 3):  # anew, and anew again while the first workers finish
        old += (await aside(fresh.workers)).values()
        fresh.daemon.signal(signal.SIGUSR2)
        await aside(lambda n=start_: fresh.daemon.wait_for("daemon.listening", n))
    fresh.daemon.signal(signal.SIGTERM)
    await aside(lambda: fresh.daemon.wait_for("daemon.draining"))  # before it, two signals would be one
    assert b"message_stop" in await aside(short.whole)
    assert fresh.daemon.process.poll() is None
    fresh.daemon.signal(signal.SIGTERM)
    assert b"event: error" in await aside(endless.whole)
    assert await aside(fresh.daemon.wait) == 0
    assert not any(map(alive, old))


async def test_a_stop_that_comes_while_the_program_on_disk_is_asked_is_a_stop(fresh: CrewDaemon, hold: Hold) -> None:
    stream, pid = await aside(lambda: begin_stream(fresh.port, 4000)), fresh.daemon.process.pid
    before = children_of(pid)
    hold.up("--version")
    fresh.daemon.signal(signal.SIGUSR2)
    await until(lambda: children_of(pid) - before)
    fresh.daemon.signal(signal.SIGTERM)
    await aside(lambda: fresh.daemon.wait_for("daemon.draining"))
    hold.no_more()
    (said,) = await aside(lambda: fresh.daemon.wait_for("daemon.not_renewed"))
    assert said["why"] == "it is about to stop"
    fresh.daemon.signal(signal.SIGTERM)
    assert b"event: error" in await aside(stream.whole)
    assert await aside(fresh.daemon.wait) == 0


async def test_a_stop_that_comes_while_the_new_program_starts_ends_it_in_good_order(
    fresh: CrewDaemon, hold: Hold
) -> None:
    stream = await aside(lambda: begin_stream(fresh.port, 60))
    hold.up("run")
    fresh.daemon.signal(signal.SIGUSR2)
    await aside(lambda: fresh.daemon.wait_for("daemon.stopped"))
    fresh.daemon.signal(signal.SIGTERM)
    hold.no_more()
    assert b"message_stop" in await aside(stream.whole)
    assert await aside(fresh.daemon.wait) == 0
    assert len(fresh.daemon.events("daemon.listening")) == 1


async def test_a_tree_that_the_program_on_disk_does_not_take_keeps_the_old_one(fresh: CrewDaemon) -> None:
    workers = await aside(fresh.workers)
    (fresh.daemon.tree / "relay.toml").write_text("schema = 1\nrealm = 7\n")
    fresh.daemon.signal(signal.SIGUSR2)
    (said,) = await aside(lambda: fresh.daemon.wait_for("daemon.not_renewed"))
    assert "realm" in said["why"]
    assert await aside(fresh.workers) == workers
