"""Verbs that write a tree, in the hands of people who are tired, in a hurry, or up to no good."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_tree import Tree, make_sealing_tree, make_tree

from relayd.config.load import load_tree
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import open_sealed

SECRET = "sk-ant-api03-hostile-0123456789"
OAUTH = '{"access_token": "sk-ant-oat01-hostile-0123456789"}'


@pytest.mark.parametrize(
    ("kind", "stdin", "words"),
    [
        ("api-key", "", "the secret is empty"),
        ("api-key", "\n", "the secret is empty"),
        ("api-key", SECRET + "\n\n", "more than one line"),
        ("api-key", " " + SECRET, "begins or ends"),
        ("api-key", "\N{ZERO WIDTH NO-BREAK SPACE}" + SECRET, "byte order mark"),
        ("api-key", SECRET + "\nsecond", "more than one line"),
        ("api-key", SECRET + "\N{LATIN SMALL LETTER E WITH ACUTE}", "cannot carry"),
        ("api-key", f"x-api-key: {SECRET}", "cannot carry"),
        ("api-key", OAUTH, "is not JSON"),
        ("oauth", OAUTH[:-1], "starts like JSON but is not JSON"),
        ("oauth", '{"claudeAiOauth": {"accessToken": "x"}}', "needs access_token"),
        ("oauth", '{"access_token": ""}', "needs access_token"),
    ],
)
def test_a_credential_that_cannot_work_is_refused_before_it_is_sealed(
    tmp_path: Path, kind: str, stdin: str, words: str
) -> None:
    tree = make_sealing_tree(tmp_path).tree
    added = tree.run("account", "add", "main", "--kind", kind, stdin=stdin)
    assert (added.code, words in added.err) == (1, True), added.err
    assert "0123456789" not in added.all
    assert not (tree.root / "accounts.d" / "main.toml").exists()
    tree.run("account", "add", "main", "--kind", kind, stdin=OAUTH if kind == "oauth" else SECRET)
    before = tree.read("accounts.d/main.toml")
    for verb in (("account", "seal", "main"), ("secret", "seal", "--account", "main")):
        ran = tree.run(*verb, stdin=stdin)
        assert (ran.code, ran.out, words in ran.err) == (1, "", True)
    assert tree.read("accounts.d/main.toml") == before


def test_a_windows_line_end_is_no_part_of_a_secret(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    assert sealing.tree.run("account", "add", "main", "--kind", "api-key", stdin=SECRET + "\r\n").code == 0
    binding = account_binding("example", "main", "https://api.anthropic.com")
    value = load_tree(sealing.tree.root).require().accounts["main"].credential.sealed
    assert open_sealed(value, binding, [sealing.identity]).reveal() == SECRET


def test_bytes_that_are_no_text_are_refused_and_not_quoted(tmp_path: Path) -> None:
    tree = make_sealing_tree(tmp_path).tree
    command = [sys.executable, "-m", "relayd", "account", "add", "x", "--kind", "api-key", "--config", str(tree.root)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    ran = subprocess.run(command, input=b"sk-\xff\xfe0123456789", capture_output=True, env=environment, check=False)
    assert (ran.returncode, b"not UTF-8" in ran.stderr, b"Traceback" in ran.stderr) == (1, True, False)
    assert b"0123456789" not in ran.stderr


@pytest.mark.parametrize("option", ["--models", "--clients", "--allowed-ips", "--groups"])
def test_an_empty_list_is_never_taken_for_all(tmp_path: Path, option: str) -> None:
    tree = make_tree(tmp_path)
    for text in ("", ",", " "):
        assert tree.run("key", "new", "dev", option, text).code == 2
    assert not (tree.root / "keys.d").exists()


def test_an_expiry_in_the_past_is_refused_and_odd_settings_are_told(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    past = tree.run("key", "new", "dev", "--expires", "2020-01-01")
    assert (past.code, "2020-01-01T00:00:00Z is in the past" in past.err) == (1, True)
    odd = tree.run("key", "new", "dev", "--groups", "nobody")
    assert odd.code == 0
    assert "W-EMPTY-GROUP" in odd.err
    assert "W-EMPTY-GROUP" not in tree.run("key", "new", "other", "--groups", "default").err


@pytest.mark.parametrize(
    "verb",
    [
        ("secret", "inspect"), ("secret", "recipients"), ("secret", "reseal"), ("secret", "seal", "--account", "a"),
        ("key", "list"), ("key", "show", "dev"), ("key", "which"), ("account", "list"), ("account", "test", "a"),
        ("account", "seal", "a"), ("account", "add", "a", "--kind", "api-key"), ("account", "login", "a"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_directory_is_no_tree_without_faults(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "tree").mkdir()
    ran = Tree(tmp_path / "tree").run(*verb)
    assert (ran.code, ran.out) == (1, "")
    assert f"{tmp_path / 'tree'}: not a config tree" in ran.err
    assert "relayd init" in ran.err


@pytest.mark.parametrize(
    "text",
    [
        'kind = "api-key"\ncredential.file = "/run/x" # why\n',
        'kind = "api-key"\ncredential = { file = "/run/x" }',
        '# a\nkind = "api-key"\r\n\r\n[credential]\r\nfile = "/run/x"\r\n# b\r\n',
        '[credential] # c\nfile = """/run/x"""\n',
    ],
)
def test_a_credential_is_sealed_into_a_file_of_any_style(tmp_path: Path, text: str) -> None:
    tree = make_sealing_tree(tmp_path).tree
    if "kind" not in text:
        text = 'kind = "api-key"\n' + text
    (tree.root / "accounts.d" / "main.toml").write_bytes(text.encode())
    ran = tree.run("account", "seal", "main", stdin=SECRET)
    assert ran.code == 0, ran.err
    after = (tree.root / "accounts.d" / "main.toml").read_bytes().decode()
    credential = load_tree(tree.root).require().accounts["main"].credential
    assert (credential.file, credential.sealed[:7]) == ("", "rlsec1.")
    assert all(word in after for word in ("# a", "# b", "# c") if word in text)
    assert after.count("\r\n") == text.count("\r\n")


def test_a_full_disk_leaves_the_tree_as_it_was(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk: a write fails in its middle."""
    tree = make_sealing_tree(tmp_path).tree
    tree.run("key", "new", "dev")
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "from relayd.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for words, file in (
        (("key", "disable", "dev"), "keys.d/dev.toml"),
        (("key", "new", "more"), "keys.d/more.toml"),
        (("secret", "keygen", str(tmp_path / "id")), str(tmp_path / "id")),
    ):
        command = [sys.executable, "-c", program, *words, "--config", str(tree.root)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, "Traceback" in ran.stderr) == (1, False), ran.stderr
        assert file in ran.stderr
        assert ".tmp" not in ran.stderr
    assert {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "id").exists()


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev", "--owner", "x" * 5000)
    states = set()
    for enabled in (False, True):
        tree.run("key", "enable" if enabled else "disable", "dev")
        states.add(tree.read("keys.d/dev.toml"))
    program = (
        "import itertools, sys\nfrom pathlib import Path\n"
        "from relayd.config.edit.edits import set_enabled\nfrom relayd.config.edit.write import edit_tree\n"
        "path, root = 'keys.d/dev.toml', Path(sys.argv[1])\n"
        "for number in itertools.count():\n"
        "    edit_tree(root, lambda files: {path: set_enabled(files[path].decode(), number % 2 == 1).encode()})\n"
        "    number or print('begun', flush=True)\n"
    )
    rng = random.Random(1)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", program, str(tree.root)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout:
            assert writer.stdout.readline() == b"begun\n"
            time.sleep(rng.random() / 20)  # somewhere in the middle
            writer.kill()
        writer.wait()
        assert tree.read("keys.d/dev.toml") in states
        assert tree.compiles()
    assert tree.run("key", "disable", "dev").code == 0  # and no lock is left
