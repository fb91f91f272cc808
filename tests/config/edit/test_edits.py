"""Edits of accounts, keys and recipients keep comments, order and style."""

from __future__ import annotations

import datetime
import tomllib

import pytest

from relayd.config.edit.edits import (
    add_recipient,
    hash_entry,
    key_file,
    remove_recipient,
    rotate,
    set_enabled,
    set_recipient_state,
    set_sealed,
)
from relayd.config.edit.toml_edit import EditError
from relayd.config.secrets.api_keys import key_hash, mint

OLD, NEW, NEWER = (mint(lambda size, byte=byte: bytes([byte]) * size) for byte in (1, 2, 3))
NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
WEEK = datetime.timedelta(days=7)

KEY = f"""\
name = "Development key"   # for people
hashes = [{{ sha256 = "{key_hash(OLD)}", hint = "sk-relay-0000" }}]

# a burst is fine
[limits]
concurrency = 10
"""
RELAY = """\
schema = 1
realm = "example"

# who can open
[secrets]
recipients = [
  { name = "prod", public = "rlpub1.p", state = "active" },   # all nodes
]

[log]
level = "info"
"""


def test_switching_off_adds_a_line_and_switching_on_changes_it() -> None:
    off = set_enabled(KEY, False)
    assert off == KEY.replace("\n\n# a burst", "\nenabled = false\n\n# a burst")
    assert set_enabled(off, True) == off.replace("enabled = false", "enabled = true")


def test_switching_to_the_present_state_changes_nothing() -> None:
    assert set_enabled(KEY, True) == KEY
    assert set_enabled(set_enabled(KEY, False), False) == set_enabled(KEY, False)


def test_a_new_key_file_holds_the_hash_and_never_the_key() -> None:
    text = key_file(NEW, {"name": "n", "created": NOW}, {"rate": {"requests": 5, "window": "1m"}})
    assert NEW not in text
    assert NEW[13:] not in text
    assert tomllib.loads(text) == {
        "name": "n",
        "created": NOW,
        "hashes": [{"sha256": key_hash(NEW), "hint": NEW[:13]}],
        "limits": {"rate": {"requests": 5, "window": "1m"}},
    }


def test_rotating_keeps_the_old_hash_for_the_time_of_grace() -> None:
    text = rotate(KEY, NEW, now=NOW, until=NOW + WEEK)
    assert tomllib.loads(text)["hashes"] == [
        {"sha256": key_hash(OLD), "hint": "sk-relay-0000", "expires": NOW + WEEK},
        hash_entry(NEW),
    ]
    assert text.splitlines()[0] == KEY.splitlines()[0]
    assert text.splitlines()[2:] == KEY.splitlines()[2:]


def test_without_grace_the_old_hash_goes_at_once() -> None:
    assert tomllib.loads(rotate(KEY, NEW, now=NOW, until=NOW))["hashes"] == [hash_entry(NEW)]


def test_an_expired_hash_makes_room_for_the_next_rotation() -> None:
    once = rotate(KEY, NEW, now=NOW, until=NOW + WEEK)
    later = NOW + 2 * WEEK
    hashes = tomllib.loads(rotate(once, NEWER, now=later, until=later + WEEK))["hashes"]
    assert hashes == [{**hash_entry(NEW), "expires": later + WEEK}, hash_entry(NEWER)]


def test_a_second_rotation_in_the_time_of_grace_is_refused_or_ends_both_old_hashes() -> None:
    once = rotate(KEY, NEW, now=NOW, until=NOW + WEEK)
    with pytest.raises(EditError, match=r"two hashes are in use until 2026-11-29T12:00:00Z \(wait, or rotate with"):
        rotate(once, NEWER, now=NOW, until=NOW + WEEK)
    assert tomllib.loads(rotate(once, NEWER, now=NOW, until=NOW))["hashes"] == [hash_entry(NEWER)]


def test_rotating_never_makes_an_old_hash_live_longer() -> None:
    soon = NOW + datetime.timedelta(hours=1)
    text = KEY.replace('"sk-relay-0000"', f'"sk-relay-0000", expires = {soon.isoformat()}')
    assert tomllib.loads(rotate(text, NEW, now=NOW, until=NOW + WEEK))["hashes"][0]["expires"] == soon


def test_hashes_written_as_tables_are_rotated_too() -> None:
    text = f'name = "n"\n\n# the first\n[[hashes]]\nsha256 = "{key_hash(OLD)}"  # old\n\n[limits]\nconcurrency = 1\n'
    rotated = rotate(text, NEW, now=NOW, until=NOW + WEEK)
    assert [entry["sha256"] for entry in tomllib.loads(rotated)["hashes"]] == [key_hash(OLD), key_hash(NEW)]
    assert "# the first\n" in rotated
    assert "# old\n" in rotated
    assert rotated.endswith("\n[limits]\nconcurrency = 1\n")


def test_a_sealed_credential_replaces_the_old_one_or_a_file() -> None:
    text = '# main\nkind = "api-key"\n\n[credential]\nsealed = "old"   # 2026\n'
    assert set_sealed(text, "new") == text.replace('"old"', '"new"')
    text = 'kind = "api-key"\n\n[credential]\nfile = "/run/x"   # for now\n'
    assert tomllib.loads(set_sealed(text, "new"))["credential"] == {"sealed": "new"}
    assert set_sealed('kind = "api-key"\n', "new") == 'kind = "api-key"\n\n[credential]\nsealed = "new"\n'


def test_a_recipient_is_added_retired_and_removed_around_the_comments() -> None:
    added = add_recipient(RELAY, "prod-2", "rlpub1.q")
    line = '  { name = "prod-2", public = "rlpub1.q", state = "active" },\n'
    assert added == RELAY.replace("# all nodes\n", "# all nodes\n" + line)
    retired = set_recipient_state(added, "prod", "retiring")
    assert retired == added.replace('"rlpub1.p", state = "active"', '"rlpub1.p", state = "retiring"')
    removed = remove_recipient(retired, "prod-2")
    assert tomllib.loads(removed) == tomllib.loads(set_recipient_state(RELAY, "prod", "retiring"))
    assert "# all nodes" in removed


def test_the_first_recipient_makes_the_table() -> None:
    text = add_recipient("schema = 1\n\n[log]\nlevel = 'info'\n", "prod", "rlpub1.p")
    assert tomllib.loads(text)["secrets"]["recipients"] == [{"name": "prod", "public": "rlpub1.p", "state": "active"}]


def test_recipients_are_not_listed_twice_and_unknown_ones_not_changed() -> None:
    with pytest.raises(EditError, match="a recipient prod exists"):
        add_recipient(RELAY, "prod", "rlpub1.q")
    with pytest.raises(EditError, match="already listed, as recipient prod"):
        add_recipient(RELAY, "other", "rlpub1.p")
    with pytest.raises(EditError, match=r"there is no x \(known: prod\)"):
        set_recipient_state(RELAY, "x", "retiring")
