"""Verbs with a person at a terminal: asked when something is missing, and a secret is not shown while it is typed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from cli_tree import Tree, make_sealing_tree, make_tree

PATIENCE = 60.0  # s
END, INTERRUPT = "\x04", "\x03"  # Ctrl-D, Ctrl-C


def at_terminal(tree: Tree, *words: str, answers: tuple[tuple[str, str], ...]) -> tuple[int, str, str]:
    """Run a verb with a terminal as stdin, giving each answer when its question appears on stderr.

    Returns: exit code, stderr, and what the terminal echoed.
    """
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "relayd", *words, "--config", str(tree.root)]
    child = subprocess.Popen(
        command, stdin=slave, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    os.close(slave)
    assert child.stderr is not None
    said = b""
    for question, answer in answers:
        said += _until(child.stderr.fileno(), question.encode())
        if answer == INTERRUPT:
            _until_it_reads(child)
            child.send_signal(signal.SIGINT)  # as the terminal would, if it were the child's controlling one
        else:
            os.write(master, answer.encode() + (b"" if answer == END else b"\n"))
    rest, code = _rest_of(child.stderr.fileno()), child.wait(PATIENCE)
    said += rest
    child.stderr.close()
    echoed = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed, and nothing is left
        echoed = os.read(master, 65536) if select.select([master], [], [], 0)[0] else b""
    os.close(master)
    return code, said.decode(), echoed.decode()


def _until_it_reads(child: subprocess.Popen[bytes]) -> None:
    """Wait until it sleeps. A signal between its question and its read would be noted, and the read go on."""
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < end
        time.sleep(0.001)


def _rest_of(fd: int) -> bytes:
    """What comes until the end."""
    said, end = b"", time.monotonic() + PATIENCE
    while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(fd, 4096)
        if not piece:
            return said
        said += piece
    raise AssertionError(said)


def _until(fd: int, text: bytes) -> bytes:
    said, end = b"", time.monotonic() + PATIENCE
    while text not in said:
        assert select.select([fd], [], [], max(0.0, end - time.monotonic()))[0], said
        piece = os.read(fd, 4096)
        assert piece, said
        said += piece
    return said


def test_deleting_is_confirmed_and_anything_but_yes_is_no(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev")
    code, said, _ = at_terminal(tree, "key", "delete", "dev", answers=(("[y/N]", ""),))
    assert (code, "not deleted" in said) == (1, True)
    assert (tree.root / "keys.d" / "dev.toml").exists()
    code, _, _ = at_terminal(tree, "key", "delete", "dev", answers=(("[y/N]", "y"),))
    assert code == 0
    assert not (tree.root / "keys.d" / "dev.toml").exists()


def test_kind_and_secret_are_asked_for_and_the_secret_is_not_echoed(tmp_path: Path) -> None:
    tree = make_sealing_tree(tmp_path).tree
    answers = (("[api-key]: ", ""), ("(not shown): ", "sk-ant-api03-canary-tty"))
    code, said, echoed = at_terminal(tree, "account", "add", "main", answers=answers)
    assert code == 0, said
    assert "canary" not in said + echoed + tree.content
    assert tree.compiles()


def test_an_end_of_input_or_an_interrupt_at_a_question_writes_nothing(tmp_path: Path) -> None:
    tree = make_sealing_tree(tmp_path).tree
    add = ("account", "add", "main")
    for words, question, key, expected in (
        ((*add, "--kind", "api-key"), "(not shown): ", END, 1),
        (add, "[api-key]: ", END, 1),
        ((*add, "--kind", "api-key"), "(not shown): ", INTERRUPT, 130),
    ):
        code, said, _ = at_terminal(tree, *words, answers=((question, key),))
        assert (code, "Traceback" in said) == (expected, False), said
        assert not (tree.root / "accounts.d" / "main.toml").exists()


def test_a_new_password_is_asked_for_twice(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    for second, code in (("another password", 1), ("a good password", 0)):
        answers = (("(not shown): ", "a good password"), ("once more (not shown): ", second))
        found, said, echoed = at_terminal(tree, "secret", "password", "root", "--add", answers=answers)
        assert (found, "good password" in said + echoed) == (code, False), said
    assert tree.compiles()
