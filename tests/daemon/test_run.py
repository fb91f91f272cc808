"""The daemon as a process: start, stop, drain, signals, exit codes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from builders import KEY
from daemon import PATIENCE, SIMULATOR, Daemon, control_answer, running, start, write_tree
from ports import free_port

from relayd.wire.sse import EventDecoder

SLOW = SIMULATOR + '[simulator]\nwords = 5\nbetween = "100ms"\n'
SILENT = SIMULATOR + '[simulator]\nfirst_byte = "1h"\n'
ENDLESS = SIMULATOR + '[simulator]\nwords = 1000\nbetween = "50ms"\n'
ASK = {"model": "claude-sonnet-5-5", "max_tokens": 4000, "messages": [{"role": "user", "content": "hi"}]}


def http(daemon: Daemon) -> httpx2.Client:
    return httpx2.Client(base_url=daemon.url, headers={"x-api-key": KEY}, trust_env=False, timeout=PATIENCE)


def ask(daemon: Daemon) -> httpx2.Response:
    with http(daemon) as client:
        return client.post("/v1/messages", json=ASK)


class Streaming:
    """A stream that is read in the background."""

    def __init__(self, daemon: Daemon) -> None:
        self.body = b""
        self.begun = threading.Event()
        self.fault: Exception | None = None
        self._daemon = daemon
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.begun.wait(PATIENCE)

    def _read(self) -> None:
        try:
            with (
                http(self._daemon) as client,
                client.stream("POST", "/v1/messages", json={**ASK, "stream": True}) as answer,
            ):
                for piece in answer.iter_raw():
                    self.body += piece
                    self.begun.set()
        except httpx2.TransportError as error:
            self.fault = error
        finally:
            self.begun.set()

    def end(self) -> list[str]:
        """Wait for its end; the names of its events."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return [event.name for event in EventDecoder().feed(self.body)]


def refuses(daemon: Daemon) -> bool:
    """Whether nobody accepts connections any longer."""
    try:
        socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE).close()
    except OSError:
        return True
    return False


def all_read(sock: socket.socket) -> bool:
    """Whether the other end of a connection on 127.0.0.1 has taken all bytes. Source: proc(5), /proc/net/tcp."""
    ends = [f":{end[1]:04X}" for end in (sock.getpeername(), sock.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, *places, state, queues = line.split()[:5]
        if [place[-5:] for place in places] == ends and state == "01":  # established
            return int(queues.partition(":")[2], 16) == 0
    return False


def run_to_its_end(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


# Start


def test_it_says_where_it_listens_and_serves(tmp_path: Path) -> None:
    with running(write_tree(tmp_path)) as daemon:
        line = daemon.events("daemon.listening")[0]
        assert (line["accounts"], line["keys"], len(line["revision"])) == (1, 1, 12)
        assert ask(daemon).status_code == 200
    assert daemon.events("daemon.stopped")


def test_it_listens_on_several_addresses_and_on_a_unix_socket_also_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    options = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", f"unix:{path}")
    tree = write_tree(tmp_path)
    start(tree, *options).kill()
    with running(tree, *options) as daemon:
        listen = daemon.events("daemon.listening")[0]["listen"]
        assert [one.rpartition(":")[0] for one in listen[:2]] == ["http://127.0.0.1", "http://[::1]"]
        assert listen[2] == f"unix:{path}"
        for url in listen[:2]:
            assert httpx2.get(url + "/health", trust_env=False, timeout=PATIENCE).status_code == 200
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, trust_env=False, timeout=PATIENCE) as client:
            assert client.post("http://x/v1/messages", json=ASK, headers={"x-api-key": KEY}).status_code == 200


def test_a_tree_with_errors_is_not_served_and_they_are_all_told(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay='[server]\nlisten = ["nonsense"]\nworker = 1\n', accounts={"sim": "kind = 5\n"})
    ended = run_to_its_end(tree)
    assert (ended.returncode, ended.stdout) == (78, "")
    for place in ("relay.toml:4:", "relay.toml:5:", "accounts.d/sim.toml:1:"):
        assert place in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_that_is_no_tree_is_not_served(tmp_path: Path) -> None:
    ended = run_to_its_end(tmp_path / "nothing")
    assert ended.returncode == 78
    assert "Traceback" not in ended.stderr


def test_a_state_file_of_a_newer_relayd_is_refused_in_one_line(tmp_path: Path) -> None:
    tree = write_tree(tmp_path)
    (tree / "var").mkdir()
    with contextlib.closing(sqlite3.connect(tree / "var" / "relayd.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    ended = run_to_its_end(tree, "--listen", "127.0.0.1:0")
    assert ended.returncode == 78
    (line,) = (line for line in ended.stderr.splitlines() if not line.startswith("{"))
    assert "relayd.db: tables of version 99, but this relayd knows only 3 [run the newer relayd" in line


def test_an_address_that_is_taken_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_to_its_end(write_tree(tmp_path), "--listen", place)
    assert ended.returncode == 1
    assert f"{place}: cannot listen: address already in use: taken by process {os.getpid()} (" in ended.stderr
    assert "Traceback" not in ended.stderr


# Stop


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_finish_and_takes_no_new_connections(tmp_path: Path, how: signal.Signals) -> None:
    with running(write_tree(tmp_path, accounts={"sim": SLOW})) as daemon:
        stream = Streaming(daemon)
        daemon.signal(how)
        daemon.wait_for("daemon.draining")
        daemon.wait_until(lambda: refuses(daemon), "the listener to close")
        assert stream.end()[-1] == "message_stop"
        assert stream.fault is None
        assert daemon.wait() == 0
        [call] = daemon.events("call.done")
        assert call["outcome"] == "ok"


def test_readiness_ends_with_the_signal_on_connections_that_are_open(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, accounts={"sim": ENDLESS})) as daemon:
        stream = Streaming(daemon)
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\n")  # its request is on the way
            daemon.wait_until(lambda: all_read(sock), "its head to be read")
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("daemon.draining")
            sock.sendall(b"\r\n")
            answer = sock.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer
        daemon.signal(signal.SIGTERM)
        stream.end()
        assert daemon.wait() == 0


def test_calls_are_still_taken_for_a_while_when_balancers_need_time_to_notice(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, relay='[server]\ndrain_delay = "1h"\n')) as daemon:
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("daemon.draining")
        with http(daemon) as client:
            assert client.get("/readyz").status_code == 503
        assert ask(daemon).status_code == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_the_listeners_close_when_that_while_is_over(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, relay='[server]\ndrain_delay = "100ms"\n')) as daemon:
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


@pytest.mark.parametrize("how", ["a second signal", "the drain timeout"])
def test_streams_that_do_not_end_are_cut_with_an_error_event(tmp_path: Path, how: str) -> None:
    relay = '[server]\ndrain_timeout = "300ms"\n' if how == "the drain timeout" else ""
    with running(write_tree(tmp_path, relay=relay, accounts={"sim": ENDLESS})) as daemon:
        streams = [Streaming(daemon) for _ in range(3)]
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("daemon.draining")
        if how == "a second signal":
            daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        for stream in streams:
            names = stream.end()
            assert (names[0], names[-1], names.count("error")) == ("message_start", "error", 1)
            assert b"the relay is stopping" in stream.body
            assert stream.fault is not None  # and no proper end behind it
        calls = daemon.events("call.done")
    assert [call["outcome"] for call in calls] == ["cut"] * 3
    assert all(call["tokens_in"] > 0 for call in calls)
    assert "Traceback" not in daemon.text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_answer_has_not_begun_is_told_that_the_relay_stops(tmp_path: Path, stream: bool) -> None:
    told: list[httpx2.Response] = []
    control = tmp_path / "control.sock"
    with running(write_tree(tmp_path, accounts={"sim": SILENT}), "--control", str(control)) as daemon:

        def call() -> None:
            with http(daemon) as client:
                told.append(client.post("/v1/messages", json={**ASK, "stream": stream}))

        caller = threading.Thread(target=call)
        caller.start()
        daemon.wait_until(lambda: control_answer(control, "status")["status"]["calls"] == 1, "the call")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("daemon.draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        caller.join()
        (done,) = daemon.events("call.done")
    assert (told[0].status_code, told[0].json()["error"]["message"]) == (503, "the relay is stopping")
    assert (done["status"], done["outcome"]) == (503, "cut")


def test_a_stream_that_has_only_been_given_signs_of_life_ends_with_an_error_event(tmp_path: Path) -> None:
    relay = '[server]\nsse_keepalive = "50ms"\nsse_head_after = "50ms"\n'
    with running(write_tree(tmp_path, relay=relay, accounts={"sim": SILENT})) as daemon:
        stream = Streaming(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.wait_for("daemon.draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert [name for name in stream.end() if name] == ["error"]
        (done,) = daemon.events("call.done")
    assert b"the relay is stopping" in stream.body
    assert done["outcome"] == "cut"


def test_an_idle_connection_does_not_hold_up_the_end(tmp_path: Path) -> None:
    patient = '[server]\nkeep_alive_timeout = "1h"\ndrain_timeout = "1h"\n'
    with running(write_tree(tmp_path, relay=patient)) as daemon, http(daemon) as client:
        assert client.get("/health").status_code == 200
        daemon.stop()


def test_a_daemon_that_was_killed_starts_again(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, accounts={"sim": ENDLESS})
    daemon = start(tree)
    stream = Streaming(daemon)
    daemon.kill()
    stream.end()
    with running(tree) as again:
        again.signal(signal.SIGTERM)
        assert again.wait() == 0


def test_signals_without_end_do_not_interrupt_the_end(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, accounts={"sim": ENDLESS})) as daemon:
        stream = Streaming(daemon)
        deadline = time.monotonic() + PATIENCE
        while daemon.process.poll() is None and time.monotonic() < deadline:
            daemon.signal(signal.SIGTERM)
            time.sleep(0.001)
        assert daemon.wait() == 0
        stream.end()
    assert [call["outcome"] for call in daemon.events("call.done")] == ["cut"]
    assert daemon.events("daemon.stopped")


# Signals and the log


def test_the_log_goes_to_a_file_that_is_reopened_on_a_signal(tmp_path: Path) -> None:
    path, old = tmp_path / "relayd.log", tmp_path / "relayd.log.1"
    tree = write_tree(tmp_path, relay=f'[log]\nfile = "{path}"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RELAYD_LOG_DIR": str(tmp_path)},
    )
    with _killing(process):
        daemon = Daemon(process, path, tree)
        daemon.wait_until(path.exists, "the log file")
        daemon.url = daemon.wait_for("daemon.listening")[0]["listen"][0]
        ask(daemon)
        daemon.wait_for("call.done")
        path.rename(old)
        daemon.signal(signal.SIGUSR1)
        daemon.wait_until(path.exists, "the new log file")
        ask(daemon)
        daemon.wait_for("call.done")
        daemon.stop()
    assert old.read_text().count('"call.done"') == path.read_text().count('"call.done"') == 1


@contextlib.contextmanager
def _killing(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_calls_are_not_logged_when_nobody_wants_it_and_are_text_for_people(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay='[log]\nformat = "text"\nfile = "log.txt"\n')
    tree.joinpath("relay.toml").write_text(
        tree.joinpath("relay.toml").read_text().replace('file = "log.txt"', "access = false")
    )
    listen = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", listen],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with _killing_text(process):
        (line,) = itertools.islice((line for line in process.stderr if "daemon.listening" in line), 1)
        assert " INFO " in line
        answer = httpx2.post(
            f"http://{listen}/v1/messages", json=ASK, headers={"x-api-key": KEY}, trust_env=False, timeout=PATIENCE
        )
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 0
    assert "daemon.stopped" in rest
    assert "call.done" not in rest


@contextlib.contextmanager
def _killing_text(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_systemd_is_told_what_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(PATIENCE)
        with running(write_tree(tmp_path), environment={"NOTIFY_SOCKET": str(path)}):
            assert sock.recv(4096).startswith(b"READY=1\n")
        assert b"STOPPING=1" in sock.recv(4096)


def test_each_call_is_one_line_of_json_with_what_an_operator_wants_to_know(tmp_path: Path) -> None:
    with running(write_tree(tmp_path)) as daemon:
        ask(daemon)
        Streaming(daemon).end()
        with http(daemon) as client:
            client.post("/v1/messages", content=b"[")
            client.post("/v1/messages", json=ASK, headers={"x-api-key": "bad"})
        lines = daemon.wait_for("call.done", 4)
    assert len(lines) == 4
    whole, streamed, malformed, unknown = lines
    expected: dict[str, Any] = {
        "status": 200,
        "outcome": "ok",
        "method": "POST",
        "path": "/v1/messages",
        "dialect": "anthropic",
        "key": "dev",
        "peer": "127.0.0.1",
        "account": "sim",
        "model": ASK["model"],
    }
    assert {name: whole[name] for name in expected} == expected
    assert whole["tokens_in"] > 0 < whole["tokens_out"]
    assert whole["bytes_in"] == len(json.dumps(ASK, separators=(",", ":")))
    assert 0 < whole["first_byte_ms"] <= whole["ms"]
    assert streamed["stream"] is True
    assert (malformed["outcome"], malformed["status"], malformed["key"]) == ("refused", 400, "dev")
    assert (unknown["outcome"], unknown["status"], "key" in unknown) == ("refused", 401, False)
    assert len({line["id"] for line in lines}) == 4
