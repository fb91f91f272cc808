"""Lines that people and machines read, and that hold no secret."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import KEY

from relayd.config.snapshot import Log
from relayd.core.receipt import Attempt, Receipt
from relayd.daemon.access_log import AccessLog, call_document, call_line
from relayd.daemon.log import Lines, current_call, scrub
from relayd.daemon.log_output import MOST_WAITING, Output
from relayd.daemon.log_repetition import FREE, MOST_KINDS
from relayd.daemon.log_setup import set_log
from relayd.wire.usage import Usage


def receipt(**fields) -> Receipt:
    dull = {
        "call_id": "req_1",
        "started": 1_800_000_000.25,
        "method": "POST",
        "path": "/v1/messages",
        "dialect": "anthropic",
        "client": "",
        "peer": "192.0.2.1",
        "status": 200,
        "seconds": 0.25,
    }
    return Receipt(**{**dull, **fields})


@pytest.fixture(autouse=True)
def _patient_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop gives the thread all the time that a busy machine takes."""
    monkeypatch.setattr("relayd.daemon.log_output.LAST_WORDS", 60.0)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "relayd.log")


def lines(output: Output) -> list[str]:
    assert output.path is not None
    return output.path.read_text().splitlines()


def call_fields(receipt: Receipt) -> dict[str, Any]:
    """The line of a call as a table."""
    found: dict[str, Any] = msgspec.to_builtins(call_line(receipt))
    return found


def logged(output: Output, form: str = "json") -> logging.Logger:
    logger = logging.Logger("test")
    logger.addHandler(Lines(output, form))
    return logger


def test_a_call_is_one_json_line(output: Output) -> None:
    attempts = (
        Attempt(account="a", status=529, reason="overloaded", seconds=0.1),
        Attempt(account="b", status=200, reason="ok", seconds=0.2),
    )
    AccessLog(output, "json").record(
        receipt(key="dev", model="m", usage=Usage(input=5, output=7), cost=1500, attempts=attempts)
    )
    (line,) = lines(output)
    entry = json.loads(line)

    assert entry["event"] == "call.done"
    assert entry["time"] == "2027-01-15T08:00:00.250Z"
    assert (entry["tokens_in"], entry["tokens_out"], entry["cost_usd"]) == (5, 7, "0.001500")
    assert entry["attempts"] == ["a: 529 overloaded", "b: 200 ok"]


def test_the_text_of_a_line_is_the_same_for_the_same_call(output: Output) -> None:
    usage = Usage(input=5, output=7, cache_write_1h=2, model="m-1", service_tier="batch", speed="fast")
    log = AccessLog(output, "json")
    log.record(receipt())
    log.record(receipt(model="m", sent_model='"n"', usage=usage, cost=1500, first_byte=0.1, stream=True, max_tokens=0))

    assert lines(output) == [
        '{"time":"2027-01-15T08:00:00.250Z","level":"info","event":"call.done","id":"req_1","status":200,'
        '"outcome":"ok","method":"POST","path":"/v1/messages","ms":250.0,"dialect":"anthropic","peer":"192.0.2.1",'
        '"bytes_in":0,"bytes_out":0,"revision":""}',
        '{"time":"2027-01-15T08:00:00.250Z","level":"info","event":"call.done","id":"req_1","status":200,'
        '"outcome":"ok","method":"POST","path":"/v1/messages","ms":250.0,"first_byte_ms":100.0,"dialect":"anthropic",'
        '"peer":"192.0.2.1","model":"m","sent_model":"\\"n\\"","stream":true,"max_tokens":0,"tokens_in":5,"tokens_out":7,'
        '"cache_write":2,"cache_read":0,"cache_write_1h":2,"answered":"m-1","service_tier":"batch","speed":"fast",'
        '"cost_usd":"0.001500","bytes_in":0,"bytes_out":0,"revision":""}',
    ]


def test_what_is_kept_of_a_call_says_more_of_its_attempts_and_leaves_the_line_as_it_is(output: Output) -> None:
    log, call = (
        AccessLog(output, "json"),
        receipt(attempts=(Attempt(account="a", status=200, reason="ok", seconds=0.1),)),
    )
    kept = json.loads(call_document(call, log.line_of(call)))
    log.record(call)
    line = json.loads(lines(output)[0])

    assert kept.pop("attempts") == [{"account": "a", "status": 200, "reason": "ok", "ms": 100.0}]
    assert (line.pop("level"), line.pop("event")) == ("info", "call.done")
    assert kept == line
    assert log.line_of(receipt(status=404)).status == 404


def test_access_lines_can_be_turned_off(output: Output) -> None:
    AccessLog(output, "json", enabled=False).record(receipt())

    assert lines(output) == []


def test_a_secret_for_a_model_is_blotted_out_of_every_line_and_other_calls_stay_as_they_are() -> None:
    for _ in range(2):
        entry = call_fields(receipt(model=KEY, sent_model="m", upstream_request_id=f"for {KEY}", key="dev"))
        assert (entry["model"], entry["sent_model"]) == ("[secret]", "m")
        assert entry["upstream_request_id"] == "for [secret]"
        assert call_fields(receipt(model="m", sent_model="m"))["model"] == "m"
        assert "sent_model" not in call_fields(receipt(model="m", sent_model="m"))
        assert "key" not in call_fields(receipt(model="m"))


def test_what_is_empty_is_left_out() -> None:
    entry = call_fields(receipt())

    assert "key" not in entry
    assert "cost_usd" not in entry
    assert "first_byte_ms" not in entry


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_blotted_out_of_messages_fields_and_tracebacks(output: Output, form: str) -> None:
    canaries = [
        KEY,
        "sk-ant-api03-abcdefghijkl",
        "Bearer abcdefghijklmnop",
        "sessionKey=abcdef123456",
        "rlkey1abcdefghijklmnopqrst",
        "socks5://user:passw0rd@proxy:1080",
    ]
    logger = logged(output, form)
    for canary in canaries:
        try:
            raise ValueError(f"with {canary} inside")
        except ValueError:
            logger.exception("event with %s", canary, extra={"field": f"x {canary}"})
    text = "\n".join(lines(output))

    assert text.count("[secret]") >= 3 * len(canaries)
    for secret in (KEY, "abcdefghijkl", "abcdef123456", "passw0rd"):
        assert secret not in text


def test_a_text_line_stays_one_line(output: Output) -> None:
    logged(output, "text").warning("area.event", extra={"value": "two\nlines", "count": 3})
    (line,) = lines(output)

    assert "WARNING" in line
    assert r"value='two\nlines' count=3" in line


def test_a_file_is_reopened_after_rotation(output: Output, tmp_path: Path) -> None:
    output.write(b"one\n")
    os.rename(tmp_path / "relayd.log", tmp_path / "relayd.log.1")
    output.write(b"two\n")
    output.reopen()
    output.write(b"three\n")

    assert (tmp_path / "relayd.log.1").read_text() == "one\ntwo\n"
    assert (tmp_path / "relayd.log").read_text() == "three\n"


def test_a_line_that_cannot_be_written_is_counted_and_survived() -> None:
    full = Output(Path("/dev/full"))
    full.write(b"line\n")

    assert full.lost == 1
    assert full.failing == "no space left on device"


def test_a_line_that_a_full_disk_cut_off_takes_no_other_line_with_it(tmp_path: Path) -> None:
    limits, path = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "relayd.log"
    output = Output(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))  # as little as there may be left
    try:
        output.write(b"whole\n")
        output.write(b"half of it\n")
        output.write(b"nothing\n")
        assert (output.lost, output.failing) == (2, "file too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    output.write(b"again\n")
    assert path.read_text() == "whole\nha\nagain\n"
    assert output.failing == ""


def test_a_value_that_no_encoder_knows_is_still_logged(output: Output) -> None:
    logged(output).warning("event", extra={"thing": object(), "path": Path("/x")})

    assert json.loads(lines(output)[0])["path"] == "/x"


def test_plain_text_is_left_as_it_is() -> None:
    assert scrub("model claude-x at 12:00:00, see https://example.com/a:b") == (
        "model claude-x at 12:00:00, see https://example.com/a:b"
    )


# --- levels, repetition, calls


def event_names(output: Output) -> list[tuple[str, int]]:
    return [(entry["event"], entry.get("repeated", 0)) for entry in map(json.loads, lines(output))]


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_an_area_may_have_a_level_of_its_own_and_a_reload_changes_it(output: Output) -> None:
    access = AccessLog(output, "json")
    quiet = Log(format="json", level="warning", levels={"reload": "debug", "state": "error", "httpx2": "info"})
    set_log(quiet, output, access)
    for name in ("reload.a", "state.b", "account.c"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger("relayd.some").log(level, "%s%d", name, level)
    logging.getLogger("httpx2").info("theirs")
    set_log(Log(format="json"), output, access)
    logging.getLogger("relayd").info("account.d")
    logging.getLogger("relayd").debug("reload.d")

    assert [name for name, _ in event_names(output)] == [
        *("reload.a10", "reload.a20", "reload.a30", "reload.a40"),
        *("state.b40", "account.c30", "account.c40", "theirs", "account.d"),
    ]


def test_what_is_said_again_and_again_is_a_few_lines_and_a_count(output: Output) -> None:
    timers: list[Callable[[], None]] = []
    handler = Lines(output, "json", later=lambda seconds, then: timers.append(then))
    logger = logging.Logger("relayd")
    logger.addHandler(handler)
    for number in range(100):
        logger.warning("account.out", extra={"account": "a", "reason": f"until {number}"})
        logger.warning("access.refused", extra={"from": "192.0.2.1"})
        logger.info("admin.audit")
        logger.error("state.lost", extra={"call": number})
    logger.warning("account.out", extra={"account": "b"})
    (told,) = timers
    before = event_names(output)
    told()
    logger.warning("account.out", extra={"account": "a"})

    assert before.count(("account.out", 0)) == FREE + 1
    assert [before.count((name, 0)) for name in ("access.refused", "admin.audit", "state.lost")] == [100] * 3
    assert event_names(output)[len(before) :] == [("account.out", 100 - FREE), ("account.out", 0)]
    assert json.loads(lines(output)[-2])["reason"] == "until 99"


def test_what_was_left_out_is_said_when_the_daemon_ends(output: Output) -> None:
    handler = Lines(output, "json", later=lambda seconds, then: None)
    logger = logging.Logger("relayd")
    logger.addHandler(handler)
    for _ in range(FREE + 2):
        logger.error("state.fault")
    handler.flush()
    handler.flush()

    assert event_names(output) == [("state.fault", 0)] * FREE + [("state.fault", 2)]


def test_no_end_of_kinds_is_remembered(output: Output) -> None:
    handler = Lines(output, "json", later=lambda seconds, then: None)
    logger = logging.Logger("relayd")
    logger.addHandler(handler)
    for number in range(MOST_KINDS + 10):
        logger.warning("account.out", extra={"account": number})

    assert len(lines(output)) == MOST_KINDS + 10
    assert len(handler._repetition._windows) == MOST_KINDS


def test_a_line_that_is_written_during_a_call_names_it(output: Output) -> None:
    logger = logged(output)
    token = current_call.set("req_1")
    logger.warning("account.out")
    logger.warning("state.lost", extra={"call": "req_0"})
    current_call.reset(token)
    logger.warning("account.out")

    assert [json.loads(line).get("call") for line in lines(output)] == ["req_1", "req_0", None]


# --- the thread


@pytest.fixture
def pipe() -> Iterator[tuple[int, Output]]:
    """The reading end of a pipe, and an output that writes to it with a thread."""
    reading, writing = os.pipe()
    output = Output(None, fd=writing)
    output.start()
    yield reading, output
    os.close(reading)
    output.stop()
    os.close(writing)


def test_whoever_logs_never_waits_for_a_full_pipe_and_what_is_lost_is_counted(pipe: tuple[int, Output]) -> None:
    reading, output = pipe
    line = b"x" * 999 + b"\n"
    for _ in range(MOST_WAITING + 2000):  # a pipe takes 64 KiB; without the thread the 66th line would wait for ever
        output.write(line)

    assert output.lost > 0
    with open(reading, "rb", closefd=False) as file:
        for _ in range(MOST_WAITING + 2000 - output.lost):
            assert file.readline() == line


def test_lines_keep_their_order_and_a_stop_writes_what_waits(pipe: tuple[int, Output]) -> None:
    reading, output = pipe
    for number in range(500):
        output.write(b"%d\n" % number)
    output.stop()
    output.write(b"last\n")

    assert os.read(reading, 1 << 16).split() == [b"%d" % number for number in range(500)] + [b"last"]
    assert output.lost == 0


def test_lines_that_come_together_are_written_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, data: written.append(bytes(data)) or write(fd, data))
    paused, go_on = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        paused.set()
        go_on.wait(30)

    output = Output(tmp_path / "relayd.log", pause=pause)
    output.start()
    output.write(b"first\n")
    assert paused.wait(30)
    for number in range(20):
        output.write(b"%d\n" % number)
    go_on.set()
    output.stop()

    assert written == [b"first\n", b"".join(b"%d\n" % number for number in range(20))]


def test_a_stop_does_not_wait_for_ever_and_nothing_waits_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.daemon.log_output.LAST_WORDS", 0.05)
    reading, writing = os.pipe()
    output = Output(None, fd=writing)
    output.start()
    for _ in range(200):
        output.write(b"x" * 999 + b"\n")
    output.stop()
    output.write(b"x" * 999 + b"\n")

    assert output.lost >= 1
    os.close(reading)  # then nobody can write to it any longer, and the thread comes to its end


def test_a_reopening_has_its_place_among_the_lines(tmp_path: Path) -> None:
    output = Output(tmp_path / "relayd.log")
    output.start()
    for number in range(300):
        if number == 150:
            (tmp_path / "relayd.log").rename(tmp_path / "old.log")
            output.reopen()
        output.write(b"%d\n" % number)
    output.stop()

    assert (tmp_path / "relayd.log").read_text().split()[-1] == "299"
    both = (tmp_path / "old.log").read_text() + (tmp_path / "relayd.log").read_text()
    assert both.split() == [str(number) for number in range(300)]
    assert (tmp_path / "relayd.log").read_text().split()[0] == "150"


def test_a_standard_error_that_does_not_block_loses_nothing(pipe: tuple[int, Output]) -> None:
    reading, output = pipe
    os.set_blocking(output._fd, False)
    for number in range(3000):
        output.write(b"%0999d\n" % number)
    with open(reading, "rb", closefd=False) as file:
        assert [int(file.readline()) for _ in range(3000)] == list(range(3000))


WRITER = """
import sys
from relayd.daemon import log_output
log_output.LAST_WORDS = 60.0
output = log_output.Output(None, fd=int(sys.argv[1]))
print("begins", flush=True)
sys.stdin.read()
output.start()
for number in range(40):
    output.write(sys.argv[2].encode() * (65536 if number % 4 == 0 else 50) + b"\\n")
output.stop()
sys.exit(output.lost)
"""


def test_processes_that_share_a_pipe_write_whole_lines_however_long_and_one_that_is_killed_stops_nobody() -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", WRITER, str(writing)]
    killed = subprocess.Popen([*command, "k"], pass_fds=[writing], stdin=subprocess.DEVNULL)
    with open(reading, "rb") as file:
        assert set(file.read(4096)) <= {ord("k"), ord("\n")}
        killed.kill()  # in the middle of a line of which nobody reads more
        killed.wait()
        piped = subprocess.PIPE
        writers = [subprocess.Popen([*command, name], pass_fds=[writing], stdin=piped, stdout=piped) for name in "ab"]
        os.close(writing)
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begins\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.close()
        found = file.read().lstrip(b"k\n").split(b"\n")  # the last piece of one that is dead ends nowhere
    for writer in writers:
        with writer:
            assert writer.wait() == 0
    whole = [line for line in found if line]
    assert all(len(set(line)) == 1 and len(line) in (50, 65536) for line in whole)
    assert sorted((line[:1], len(line)) for line in whole) == sorted(
        (name, 65536 if number % 4 == 0 else 50) for name in (b"a", b"b") for number in range(40)
    )


STOPPED = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_nobody_waits_for_a_process_that_keeps_the_lock(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    with place.open("ab") as file:  # a file locks as a pipe does
        output, fd = Output(None, fd=file.fileno()), str(file.fileno())
        command = [sys.executable, "-c", STOPPED, fd]
        keeps = subprocess.Popen(command, pass_fds=[int(fd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with keeps:
            assert keeps.stdout is not None
            assert keeps.stdout.readline() == b"locked\n"
            for number in range(100):  # as a process does that starts: with no thread, and the loop not running yet
                output.write(b"%d\n" % number)
            assert place.read_text().split() == [str(number) for number in range(100)]
            assert output.lost == 0
        output.write(b"free\n")
    assert place.read_text().split()[-1] == "free"
    assert not output._kept


def test_a_reader_that_is_gone_is_said_and_counted(pipe: tuple[int, Output]) -> None:
    reading, output = pipe
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, reading)  # the fixture still closes it
    os.close(null)
    output.write(b"nobody reads this\n")
    output.stop()

    assert (output.lost, output.failing) == (1, "broken pipe")
