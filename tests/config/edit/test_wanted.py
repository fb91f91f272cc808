"""Wanted edits: from the fields of a form to the text of a file, and to a command that means the same."""

from __future__ import annotations

import datetime
import shlex

import pytest
from cli_tree import make_tree

from relayd.cli import build_parser
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.tree_edit import TreeEdit, draft
from relayd.config.edit.wanted import count_of, expiry, set_wanted, words_of
from relayd.config.edit.wanted_accounts import delete_account, new_account, seal_account, switch_account
from relayd.config.edit.wanted_keys import change_key, delete_key, deny, limit_owner, new_key, rotate_key, switch_key
from relayd.config.edit.wanted_relay import set_aliases, set_client
from relayd.config.secrets.api_keys import mint
from relayd.config.secrets.secret import Secret

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
KEY = mint(lambda size: b"\x01" * size)
FILES = {
    "relay.toml": b'schema = 1\nrealm = "test"\n',
    "accounts.d/a.toml": b'kind = "simulator"\n',
    "keys.d/k.toml": b'# mine\nowner = "x" # who\nhashes = [{ sha256 = "' + b"ab" * 32 + b'" }]\n',
}
EVERYTHING = {
    "id": "robot", "name": "--a 'robot'; $(id)", "owner": "o", "groups": "default", "models": "claude-*,\nfast",
    "deny_models": "x", "endpoints": "messages", "allowed_ips": "10.0.0.0/8", "max_tokens": "9", "expires": "90d",
    "concurrency": "2", "tokens_per_minute": "1000", "daily_requests": "1", "monthly_requests": "2",
    "daily_tokens": "3", "monthly_tokens": "4", "daily_cost": "1.5", "monthly_cost": "2", "total_cost": "3",
}  # fmt: skip


@pytest.mark.parametrize(
    "edit",
    [
        new_key(EVERYTHING, KEY, NOW),
        new_key({"id": "robot"}, KEY, NOW),
        rotate_key("k", "2d", KEY, NOW),
        switch_key("k", False),
        switch_key("k", True),
        new_account({"id": "b", "kind": "simulator", "weight": "3", "groups": "a, b"}, Secret("")),
        switch_account("a", False),
        seal_account("a", Secret("x"), login=True),
        delete_key("k"),
        delete_account("a"),
        deny("keys", "k"),
        deny("accounts", "a", undo=True),
        deny("ips", "203.0.113.9"),
    ],
    ids=lambda edit: edit.what,
)
def test_a_command_that_is_shown_can_be_run(edit: TreeEdit) -> None:
    words = shlex.split(edit.command)
    assert words[0] == "relayd"
    build_parser(words[1]).parse_args(words[1:])
    assert KEY not in repr(edit)
    assert KEY not in edit.command


def test_the_command_for_a_new_key_makes_the_same_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With the command line's own clock and key, which are another's."""
    tree = make_tree(tmp_path_factory.mktemp("same"))
    edit = new_key({**EVERYTHING, "name": "a 'robot'; $(id)", "expires": ""}, KEY, NOW)
    assert tree.run(*shlex.split(edit.command)[1:]).code == 0
    written = (tree.root / "keys.d/robot.toml").read_text().splitlines()
    ours = (draft(edit, FILES).after["keys.d/robot.toml"] or b"").decode().splitlines()
    differ = ("created", "hashes")
    assert [line for line in written if not line.startswith(differ)] == [
        line for line in ours if not line.startswith(differ)
    ]


def test_a_file_keeps_all_that_is_not_changed() -> None:
    wanted = draft(change_key("k", {"owner": "y", "daily_cost": "2"}, NOW), FILES)
    text = (wanted.after["keys.d/k.toml"] or b"").decode()
    assert text.startswith('# mine\nowner = "y" # who\n')
    assert text.endswith('[limits]\ndaily_cost = "2"\n')
    assert not wanted.brings
    assert draft(change_key("k", {"owner": "x"}, NOW), FILES).after == {}


def test_limits_of_an_owner_leave_other_keys_alone() -> None:
    files = {**FILES, "keys.d/other.toml": FILES["keys.d/k.toml"].replace(b'"x"', b'"z"')}
    assert list(draft(limit_owner("x", {"concurrency": "3"}), files).after) == ["keys.d/k.toml"]
    with pytest.raises(LookupError):
        draft(limit_owner("nobody", {"concurrency": "3"}), files)
    with pytest.raises(EditError):
        limit_owner("x", {})


def test_an_edit_that_brings_errors_says_so_and_old_errors_stop_nothing() -> None:
    broken = draft(change_key("k", {"groups": "NO"}, NOW), FILES)
    assert broken.brings
    assert [problem.file for problem in broken.problems] == ["keys.d/k.toml"]
    files = {**FILES, "keys.d/wrong.toml": b"what is this\n"}
    assert not draft(switch_key("k", False), files).brings


def test_aliases_and_client_rules() -> None:
    files = {**FILES, "relay.toml": FILES["relay.toml"] + b'\n[models]\nold = "a"\n# stays\nkept = "b"\n'}
    new = draft(set_aliases({"aliases": 'kept = b\n"a.b" = "c d"\n'}), files).after["relay.toml"]
    assert new == FILES["relay.toml"] + b'\n[models]\n# stays\nkept = "b"\n"a.b" = "c d"\n'
    with pytest.raises(EditError, match="expected name = value"):
        set_aliases({"aliases": "only"})
    rule = draft(set_client({"id": "ours", "user_agent": "^o", "headers": "x-a: ^(b: c)$"}), FILES).after["relay.toml"]
    assert b'"x-a" = "^(b: c)$"' in (rule or b"") or b'x-a = "^(b: c)$"' in (rule or b"")


@pytest.mark.parametrize("text", ["-1", "1.5", "ten", "٣", "9" * 20])
def test_a_count_is_a_whole_number(text: str) -> None:
    with pytest.raises(EditError, match="whole number"):
        count_of({"x": text}, "x")
    assert count_of({"x": "1_000"}, "x") == 1000
    assert count_of({"x": " "}, "x") is None


@pytest.mark.parametrize("text", ["soon", "2020-01-01", "0s", "999999999d", "-5d"])
def test_an_end_is_in_the_future(text: str) -> None:
    with pytest.raises(EditError):
        expiry(text, NOW)
    assert expiry("90d", NOW) == NOW + datetime.timedelta(days=90)


def test_lists_and_what_is_no_toml() -> None:
    assert words_of({"x": " a, b\n\nc,"}, "x") == ["a", "b", "c"]
    assert words_of({"x": " ,\n"}, "x") is None
    with pytest.raises(EditError, match="not TOML"):
        set_wanted("a =", {("a",): 1})
