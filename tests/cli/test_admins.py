"""relayd secret password and token: lines for relay.toml that hold hashes, and nothing that opens a door."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from cli_tree import make_sealing_tree, make_tree

from relayd.config.load import load_tree
from relayd.config.problems.leaks import find_leaks, redact
from relayd.config.secrets.binding import totp_binding
from relayd.config.secrets.password_hash import (
    TOKEN_PATTERN,
    hash_password,
    is_password_hash,
    mint_token,
    password_fits,
)
from relayd.config.secrets.seal import open_sealed
from relayd.config.secrets.secret import Secret
from relayd.daemon.log import scrub

PASSWORD = "correct horse bättery"


def test_a_password_becomes_lines_that_the_tree_takes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("secret", "password", "alice", "--role", "editor", stdin=PASSWORD + "\n")
    assert ran.code == 0
    assert PASSWORD not in ran.all
    (user,) = tomllib.loads(ran.out)["admin"]["users"]
    assert (user["name"], user["role"]) == ("alice", "editor")
    assert password_fits(Secret(PASSWORD), user["password_hash"])
    assert not password_fits(Secret(PASSWORD + "\n"), user["password_hash"])
    tree.write("relay.toml", f"{tree.read('relay.toml')}\n{ran.out}")
    assert tree.compiles()


def test_a_password_is_changed_in_place_and_the_role_stays(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    for words, password in (
        (("--role", "editor", "--email", "alice@example.com"), "the first password"),
        ((), "the second password"),
    ):
        assert tree.run("secret", "password", "alice", "--add", *words, stdin=password).code == 0
    assert tree.run("secret", "password", "bob", "--add", stdin="the third password").code == 0
    alice, bob = load_tree(tree.root).require().relay.admin.users
    assert (alice.role, bob.role) == ("editor", "viewer")
    assert (alice.email, bob.email) == ("alice@example.com", "")
    assert password_fits(Secret("the second password"), alice.password_hash)
    assert not password_fits(Secret("the first password"), alice.password_hash)
    assert "# the reverse proxy is before it" in tree.read("relay.toml")


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaaaaaa", "x\x00" * 9, "long" * 300])
def test_a_weak_password_is_refused(tmp_path: Path, password: str) -> None:
    ran = make_tree(tmp_path).run("secret", "password", "alice", stdin=password)
    assert (ran.code, ran.out) == (1, "")
    assert "nothing was" in ran.err


@pytest.mark.parametrize(
    "words",
    [("secret", "password", "alice"), ("secret", "seal", "--admin", "alice"), ("key", "which"),
     ("account", "add", "a", "--kind", "api-key")],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_secret_that_is_fed_twice_is_told_so_by_every_verb(tmp_path: Path, words: tuple[str, ...], end: str) -> None:
    tree = make_sealing_tree(tmp_path).tree
    ran = tree.run(*words, stdin=f"{PASSWORD}{end}{PASSWORD}{end}")
    assert (ran.code, ran.out) == (1, "")
    assert "the secret has more than one line, stdin has 2; give it alone once (only a terminal asks twice)" in ran.err
    assert PASSWORD not in ran.err
    ran = tree.run(*words, stdin=f"{PASSWORD}{end}something else{end}")
    assert "stdin has 2; give it alone; nothing was written" in ran.err


def test_a_token_is_printed_once_and_the_tree_gets_its_hash(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("secret", "token", "prometheus")
    token, lines = ran.out.split("\n", 1)
    assert TOKEN_PATTERN.fullmatch(token)
    assert tomllib.loads(lines)["admin"]["tokens"] == [
        {"name": "prometheus", "sha256": hashlib.sha256(token.encode()).hexdigest(), "role": "viewer"}
    ]
    added = tree.run("secret", "token", "ci", "--role", "editor", "--add", "--json").json
    assert added["changed"] == ["relay.toml"]
    (entry,) = load_tree(tree.root).require().relay.admin.tokens
    assert entry.sha256 == hashlib.sha256(added["token"].encode()).hexdigest()
    assert (entry.name, entry.role) == ("ci", "editor")
    again = tree.run("secret", "token", "ci", "--add")
    assert (again.code, again.out) == (1, "")
    assert "a token ci exists" in again.err


def test_tokens_are_never_the_same_and_are_hidden_where_they_turn_up(tmp_path: Path) -> None:
    token = mint_token(lambda size: bytes(range(size)))
    assert token == "rladm_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf"
    assert [leak.code for leak in find_leaks(f"# {token}")] == ["E-PLAINTEXT-SECRET"]
    assert token[6:] not in redact(f"x {token} y") + scrub(f"x {token} y")


def test_only_hashes_that_can_be_checked_within_reason_are_hashes() -> None:
    good = hash_password(Secret(PASSWORD), lambda size: b"\1" * size)
    assert is_password_hash(good)
    assert is_password_hash("$" + good)  # as other programs write the PHC form
    for bad in (
        good.replace("ln=15", "ln=25"), good.replace("ln=15", "ln=0"), good.replace("p=3", "p=99"), good[:-1] + "!",
        good.replace("ln=15,r=8", "r=8,ln=15"), good.replace("scrypt", "bcrypt"), good[: -len(good.split("$")[-1])],
        good + "xx",
    ):  # fmt: skip
        assert not is_password_hash(bad), bad
        assert not password_fits(Secret(PASSWORD), bad)


def test_one_time_codes_are_shown_once_and_the_tree_gets_them_sealed(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree = sealing.tree
    assert "nobody is called alice" in tree.run("secret", "totp", "alice", "--add").err
    assert tree.run("secret", "password", "alice", "--add", stdin=PASSWORD).code == 0
    made = tree.run("secret", "totp", "alice", "--add", "--json").json
    (user,) = load_tree(tree.root).require().relay.admin.users
    assert user.totp == made["totp"]
    assert made["changed"] == ["relay.toml"]
    assert open_sealed(user.totp, totp_binding("example", "alice"), [sealing.identity]).reveal() == made["seed"]
    assert made["uri"].startswith("otpauth://totp/relayd%20example:alice?secret=" + made["seed"])
    assert made["seed"] not in tree.content
    shown = tree.run("secret", "totp", "alice")
    assert "█" in shown.out
    line = shown.out.splitlines()[-1]
    assert tree.run("secret", "totp", "alice", "--add", "--sealed", tomllib.loads(line)["totp"]).code == 0
    assert load_tree(tree.root).require().relay.admin.users[0].totp == tomllib.loads(line)["totp"]
    assert tree.run("secret", "totp", "alice", "--add", "--sealed", "rlsec1.nonsense").code == 1


def test_one_time_codes_need_a_recipient(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("secret", "totp", "alice")
    assert (ran.code, ran.out) == (1, "")
    assert "relayd secret keygen" in ran.err
