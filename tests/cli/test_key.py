"""relayd key: minting, listing, rotating, switching and finding API keys."""

from __future__ import annotations

import datetime
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from builders import snapshot
from cli_tree import make_tree

from relayd.cli.key import why_refused
from relayd.cli.limit import BadLimit, describe, read_limits
from relayd.config.load import load_tree
from relayd.config.secrets.api_keys import checksum_ok, key_hash
from relayd.config.snapshot import ApiKey, KeyHash


def test_a_new_key_is_alone_on_stdout_and_the_tree_has_its_hash_only(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("key", "new", "Development Key", "--owner", "dev-team", "--limit", "1000", "--concurrency", "4")
    assert ran.code == 0
    key = ran.out.strip()
    assert checksum_ok(key)
    assert key not in ran.err
    assert key not in tree.content
    written = tomllib.loads(tree.read("keys.d/development-key.toml"))
    assert written["name"] == "Development Key"
    assert written["owner"] == "dev-team"
    assert written["limits"] == {"concurrency": 4, "daily_requests": 1000}
    assert written["hashes"] == [{"sha256": key_hash(key), "hint": key[:13]}]
    assert "limit: daily requests 1000" in ran.err
    assert tree.compiles()


def test_every_setting_of_a_new_key_lands_in_its_file(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run(
        "key", "new", "ci", "--groups", "default", "--models", "claude-*,x", "--deny-models", "claude-opus-*",
        "--clients", "claude_code", "--endpoints", "messages", "--allowed-ips", "10.0.0.0/8,::1",
        "--max-tokens", "4096", "--expires", "2031-01-01", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    key = load_tree(tree.root).require().keys["ci"]
    assert (key.models, key.deny_models) == (("claude-*", "x"), ("claude-opus-*",))
    assert (key.clients, key.endpoints, key.max_tokens) == (("claude_code",), ("messages",), 4096)
    assert key.expires == datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC)
    assert ran.json["id"] == "ci"
    assert ran.json["sha256"] == key_hash(ran.json["key"])


def test_create_api_key_is_key_new(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("create-api-key", "--name", "Development Key", "--limit", "1000")
    assert checksum_ok(ran.out.strip())
    assert tomllib.loads(tree.read("keys.d/development-key.toml"))["limits"] == {"daily_requests": 1000}


def test_a_duration_from_now_sets_the_expiry(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert tree.run("key", "new", "short", "--expires", "90d").code == 0
    key = load_tree(tree.root).require().keys["short"]
    assert key.created is not None
    assert key.expires == key.created + datetime.timedelta(days=90)


def test_a_taken_id_a_bad_limit_or_a_bad_model_writes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev")
    before = tree.content
    for words, text in (
        (("dev",), "keys.d/dev.toml exists already"),
        (("a", "--limit", "many"), "limit 'many': expected"),
        (("b", "--expires", "soon"), "'soon' is not a duration"),
        (("c", "--clients", "nobody"), "nobody"),
        (("d", "--models", "a b"), "models"),
        (("!!",), "no id can be made from '!!'"),
        (("e", "--id", "E F"), "'E F' is not an id"),
    ):
        ran = tree.run("key", "new", *words)
        assert (ran.code, ran.out) == (1, "")
        assert text in ran.err
        assert "Traceback" not in ran.err
    assert tree.content == before


def test_a_broken_tree_is_not_written_unless_told(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.write("accounts.d/broken.toml", 'kind = "nonsense"\n')
    ran = tree.run("key", "new", "dev")
    assert ran.code == 1
    assert "accounts.d/broken.toml:1:" in ran.err
    assert "--force" in ran.err
    assert not (tree.root / "keys.d").exists()
    assert tree.run("key", "new", "dev", "--force").code == 0
    assert (tree.root / "keys.d" / "dev.toml").exists()


def test_rotating_prints_a_second_key_and_both_work(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    old = tree.run("key", "new", "dev").out.strip()
    tree.write("keys.d/dev.toml", "# of the team\n" + tree.read("keys.d/dev.toml"))
    ran = tree.run("key", "rotate", "dev", "--grace", "2d")
    new = ran.out.strip()
    assert checksum_ok(new)
    assert new != old
    assert "the old key works until" in ran.err
    assert tree.read("keys.d/dev.toml").startswith("# of the team\n")
    for key in (old, new):
        assert tree.run("key", "which", stdin=key + "\n").out == "dev\n"
    first, second = load_tree(tree.root).require().keys["dev"].hashes
    assert first.expires is not None
    assert second.expires is None
    refused = tree.run("key", "rotate", "dev")
    assert (refused.code, refused.out) == (1, "")
    assert "two hashes are in use until" in refused.err
    last = tree.run("key", "rotate", "dev", "--grace", "0s")
    assert "the old key no longer works" in last.err
    assert tree.run("key", "which", stdin=old).code == 1


def test_disabling_and_enabling_change_one_line(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    key = tree.run("key", "new", "dev").out.strip()
    before = tree.read("keys.d/dev.toml")
    assert tree.run("key", "disable", "dev", "--json").json["enabled"] is False
    assert tree.read("keys.d/dev.toml").replace("enabled = false\n", "") == before
    which = tree.run("key", "which", stdin=key)
    assert (which.code, which.out) == (0, "dev\n")
    assert "refused: it is disabled" in which.err
    assert tree.run("key", "enable", "dev").code == 0
    assert load_tree(tree.root).require().keys["dev"].enabled


def test_which_says_of_a_denied_key_what_the_daemon_would(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    key = tree.run("key", "new", "dev").out.strip()
    tree.write("deny.toml", 'keys = ["dev"]\n')

    which = tree.run("key", "which", stdin=key)
    assert (which.code, which.out) == (0, "dev\n")
    assert "refused: it is denied by deny.toml" in which.err
    assert tree.run("key", "which", "--json", stdin=key).json["accepted"] is False


def test_deleting_removes_the_file_and_only_that(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "one")
    tree.run("key", "new", "two")
    assert tree.run("key", "delete", "one").code == 0
    assert sorted(path.name for path in (tree.root / "keys.d").iterdir()) == ["two.toml"]
    ran = tree.run("key", "delete", "one")
    assert ran.code == 1
    assert "there is no key one (known: two)" in ran.err


def test_a_key_in_a_sub_directory_is_found_and_its_id_is_taken(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.run("key", "new", "dev")
    (tree.root / "keys.d" / "team").mkdir()
    (tree.root / "keys.d" / "dev.toml").rename(tree.root / "keys.d" / "team" / "dev.toml")
    assert tree.run("key", "disable", "dev").code == 0
    assert "enabled = false" in tree.read("keys.d/team/dev.toml")
    assert "keys.d/team/dev.toml exists already" in tree.run("key", "new", "dev").err


def test_list_and_show_tell_settings_and_limits(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.write("relay.toml", tree.read("relay.toml") + "\n[limits]\nconcurrency = 7\n")
    key = tree.run("key", "new", "dev", "--limit", "12.5usd/month", "--limit", "60/1m").out.strip()
    table = tree.run("key", "list").out.splitlines()
    assert table[0].split() == ["ID", "NAME", "OWNER", "STATE", "EXPIRES", "KEY", "LIMITS"]
    assert table[1].split()[:6] == ["dev", "dev", "-", "on", "-", key[:13]]
    (entry,) = tree.run("key", "list", "--json").json["keys"]
    assert entry["limits"] == {
        "rate": {"requests": 60, "window": "60s"}, "concurrency": 7, "monthly_cost": "12.5"
    }  # fmt: skip
    assert tree.run("key", "show", "dev", "--json").json == entry
    assert "monthly cost 12.5 USD" in tree.run("key", "show", "dev").out
    assert "there is no key x" in tree.run("key", "show", "x").err


def test_which_tells_a_mistyped_key_from_an_unknown_one(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    key = tree.run("key", "new", "dev").out.strip()
    cut = tree.run("key", "which", stdin=key[:-1])
    assert cut.code == 1
    assert "cut or mistyped" in cut.err
    tree.run("key", "delete", "dev")
    unknown = tree.run("key", "which", stdin=key)
    assert unknown.code == 1
    assert "mistyped" not in unknown.err


def test_the_reason_of_a_refusal_is_the_first_that_holds() -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    tree = snapshot()
    entry, gone = KeyHash(sha256="a" * 64), KeyHash(sha256="a" * 64, expires=now)
    key = ApiKey(id="k", hashes=(entry,))  # type: ignore[arg-type]
    assert why_refused(key, entry, tree, now) == ""
    assert "grace ended" in why_refused(key, gone, tree, now)
    expired = ApiKey(id="k", hashes=(entry,), expires=now)  # type: ignore[arg-type]
    assert "expired at 2026-01-01T00:00:00Z" in why_refused(expired, entry, tree, now)


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        (["1000"], {"daily_requests": 1000}),
        (["1_000/day"], {"daily_requests": 1000}),
        (["100/1m"], {"rate": {"requests": 100, "window": "1m"}}),
        (["100/minute"], {"rate": {"requests": 100, "window": "1m"}}),
        (["5000/month"], {"monthly_requests": 5000}),
        (["200000tokens/1m"], {"tokens_per_minute": 200000}),
        (["1t/day", "2tok/month"], {"daily_tokens": 1, "monthly_tokens": 2}),
        (["5usd/day", "12.50$/month", "99usd/total"],
         {"daily_cost": "5", "monthly_cost": "12.50", "total_cost": "99"}),
        (["2000000tokens/5h", "50usd/week"],
         {"windows": [{"window": "5h", "tokens": 2000000}, {"window": "week", "cost": "50"}]}),
        (["100/1m", "500/1h"],
         {"rate": {"requests": 100, "window": "1m"}, "windows": [{"window": "1h", "requests": 500}]}),
    ],
)  # fmt: skip
def test_limits_of_the_command_line_become_the_keys_of_a_file(texts: list[str], limits: dict[str, object]) -> None:
    assert read_limits(texts) == limits
    assert len(describe(limits)) == len(texts)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "10/soon", "10apples", "10/total", "1.1234567usd", "1/day/day"])
def test_limits_that_make_no_sense_are_refused_with_their_text(text: str) -> None:
    with pytest.raises(BadLimit) as caught:
        read_limits([text])
    assert repr(text) in str(caught.value)


def test_the_same_limit_twice_is_refused() -> None:
    with pytest.raises(BadLimit, match="daily_requests is given twice"):
        read_limits(["10", "20/day"])


def test_an_action_is_needed_and_help_names_them(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "relayd", "key"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "ACTION" in ran.stderr
    ran = subprocess.run([sys.executable, "-m", "relayd", "key", "-h"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0
    for action in ("new", "list", "show", "rotate", "disable", "enable", "delete", "which"):
        assert f"\n    {action} " in ran.stdout


@pytest.mark.parametrize(
    ("name", "identity"), [("김철수", "gimcheolsu"), ("王小明", "wangxiaoming"), ("Ünsal Şahin", "unsal-sahin")]
)
def test_a_name_in_any_script_makes_a_readable_id(tmp_path: Path, name: str, identity: str) -> None:
    tree = make_tree(tmp_path)
    assert tree.run("key", "new", name).code == 0
    assert load_tree(tree.root).require().keys[identity].name == name
