"""Lines that people and machines read, and that hold no secret."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import KEY

from relayd.core.receipt import Attempt, Receipt
from relayd.daemon.log import AccessLog, Lines, call_fields, scrub
from relayd.daemon.log_output import MOST_WAITING, Output
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


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "relayd.log")


def lines(output: Output) -> list[str]:
    assert output.path is not None
    return output.path.read_text().splitlines()


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


def test_a_value_that_no_encoder_knows_is_still_logged(output: Output) -> None:
    logged(output).warning("event", extra={"thing": object(), "path": Path("/x")})

    assert json.loads(lines(output)[0])["path"] == "/x"


def test_plain_text_is_left_as_it_is() -> None:
    assert scrub("model claude-x at 12:00:00, see https://example.com/a:b") == (
        "model claude-x at 12:00:00, see https://example.com/a:b"
    )


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

    assert written == [b"first\n" + b"".join(b"%d\n" % number for number in range(20))]


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
