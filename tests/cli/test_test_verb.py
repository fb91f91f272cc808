"""`relayd test`: scenarios come out as the daemon would decide, and what does not fit is told in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import KEY
from cli_tree import Tree, make_tree

from relayd.cli.test import play
from relayd.config.load import load_tree
from relayd.config.secrets.api_keys import key_hash

KEY_FILE = f"""\
hashes = [{{ sha256 = "{key_hash(KEY)}" }}]
expires = 2027-06-01T00:00:00Z
groups = ["main"]
clients = ["claude_code"]
allowed_ips = ["10.0.0.0/8"]
models = ["claude-sonnet-*", "fast"]
max_tokens = 5000
[limits]
concurrency = 3
rate = {{ requests = 10, window = "1m" }}
daily_cost = "5"
windows = [{{ window = "5h", tokens = 100000 }}]
"""
CALL = """\
[[scenario]]
name = "it"
key = "dev"
client = "claude-cli/2.1.0 (external, cli)"
address = "10.1.2.3"
model = "claude-sonnet-4-5"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = make_tree(tmp_path, 'schema = 1\nrealm = "example"\n[models]\nfast = "claude-haiku-4-5"\n')
    (tree.root / "accounts.d/sample.toml").unlink()
    for name, more in (("first", "priority = 1\n"), ("second", ""), ("third", 'models = ["claude-haiku-*"]\n')):
        tree.write(f"accounts.d/{name}.toml", f'kind = "simulator"\ngroups = ["main"]\n{more}')
    tree.write("keys.d/dev.toml", KEY_FILE)
    return tree


def fails(tree: Tree, *lines: str, change: tuple[str, str] = ("", "")) -> str:
    """Why a scenario of these lines does not pass; "" when it does."""
    tree.write("tests.d/it.toml", CALL.replace(*change) + "\n".join(lines) + "\n")
    compiled = load_tree(tree.root)
    assert compiled.sound, compiled.problems
    (result,) = play(compiled, compiled.require())
    return result.problem.message if result.problem else ""


REFUSED = [
    ('model = "claude-opus-4-1"', (), 403, "model claude-opus-4-1 is not allowed"),
    ('client = "curl/8.5"', (), 403, "may only be used by Claude Code"),
    ('address = "192.0.2.1"', (), 403, "address 192.0.2.1 is not allowed"),
    ('address = "10.1.2.3"', ('endpoint = "batches"',), 403, "endpoint batches is not allowed"),
    ('address = "10.1.2.3"', ("time = 2027-06-01T00:00:00Z",), 401, "expired at 2027-06-01"),
    ('address = "10.1.2.3"', ("max_tokens = 5001",), 400, "more than this key's cap of 5000"),
    ('address = "10.1.2.3"', ("used = { rate = 10 }",), 429, "10 requests per 1m"),
    ('address = "10.1.2.3"', ("used = { concurrency = 3 }",), 429, "3 concurrent requests"),
    ('address = "10.1.2.3"', ('used = { daily_cost = "5" }',), 429, "5"),
    ('address = "10.1.2.3"', ('used = { windows = [{ window = "5h", tokens = 100000 }] }',), 429, "5h"),
    ('address = "10.1.2.3"', ('down = ["first", "second"]',), 529, "no account can serve"),
]


@pytest.mark.parametrize(("line", "more", "status", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_a_refusal_is_expected_with_its_status_and_words(
    tree: Tree, line: str, more: tuple[str, ...], status: int, text: str
) -> None:
    field = line.split(" = ")[0]
    old = next(one for one in CALL.splitlines() if one.startswith(f"{field} ="))
    change = (old, line)

    assert fails(tree, *more, 'expect = "refuse"', f"status = {status}", f'text = "{text}"', change=change) == ""
    assert fails(tree, *more, 'expect = "refuse"', "status = 418", change=change).startswith("it: status: expected 418")
    assert "expected to be served, but: " in fails(tree, *more, 'expect = "allow"', change=change)


def test_what_may_serve_who_is_asked_first_and_what_is_sent_can_be_expected(tree: Tree) -> None:
    fast = ('model = "claude-sonnet-4-5"', 'model = "fast"')

    assert fails(tree, 'expect = "allow"', 'accounts = ["second", "first"]', 'first = ["first"]') == ""
    assert fails(tree, 'expect = "allow"', 'down = ["first"]', 'accounts = ["second"]', 'first = ["second"]') == ""
    assert fails(tree, 'expect = "allow"', 'sent_model = "claude-haiku-4-5"', 'first = ["first"]', change=fast) == ""
    assert fails(tree, 'expect = "allow"', 'limits = ["10 requests per 1m", "3 concurrent requests"]') == ""
    assert fails(tree, 'expect = "allow"', "used = { rate = 9, concurrency = 2 }") == ""


def test_a_difference_says_what_was_expected_what_came_and_why(tree: Tree) -> None:
    third = fails(tree, 'expect = "allow"', 'accounts = ["first", "second", "third"]')
    limits = fails(tree, 'expect = "allow"', 'limits = ["9 requests per 1m"]')

    assert third.startswith("it: accounts: expected first, second, third, not first, second (third: ")
    assert "does not serve" in third
    assert limits.startswith("it: limits: '9 requests per 1m' is not among: ")
    assert "10 requests per 1m" in limits
    served = fails(tree, 'expect = "refuse"', 'used = { daily_cost = "1" }')
    assert served.startswith("it: expected a refusal, but it is served by first, second (it has room in: ")


def test_a_denied_key_is_refused_and_with_two_hashes_the_valid_one_counts(tree: Tree) -> None:
    hashes = f'hashes = [{{ sha256 = "{"a1" * 32}", expires = 2026-12-01T00:00:00Z }}, {{ sha256 = "{"b2" * 32}" }}]'
    tree.write("keys.d/dev.toml", KEY_FILE.replace(KEY_FILE.split("\n", 1)[0], hashes))
    assert fails(tree, 'expect = "allow"', "time = 2027-01-01T00:00:00Z") == ""

    tree.write("deny.toml", f'sha256 = ["{"b2" * 32}"]\n')
    assert fails(tree, 'expect = "allow"', "time = 2026-11-30T00:00:00Z") == ""
    assert fails(tree, 'expect = "refuse"', "time = 2027-01-01T00:00:00Z", "status = 401") == ""

    tree.write("deny.toml", 'keys = ["dev"]\n')
    assert fails(tree, 'expect = "refuse"', 'text = "revoked"') == ""


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (('model = "claude-sonnet-4-5"\n', ""), "1:3: error[E-SCENARIO]: scenario[0]: a call of"),
        (('"10.1.2.3"', '"everywhere"'), "5:11: error[E-SCENARIO]: scenario[0].address: expected the address"),
        (('key = "dev"', 'key = "dve"'), '3:7: error[E-REF]: scenario[0].key: the tree has no key "dve"'),
        (('name = "it"', 'nmae = "it"'), "2:1: error[E-UNKNOWN-KEY]: unknown key `nmae`"),
    ],
)
def test_a_scenario_that_describes_no_call_is_an_error_for_check_and_never_stops_the_daemon(
    tree: Tree, change: tuple[str, str], place: str
) -> None:
    tree.write("tests.d/it.toml", CALL.replace(*change) + 'expect = "allow"\n')

    for verb in ("check", "test"):
        ran = tree.run(verb)
        assert ran.code == 1
        assert f"tests.d/it.toml:{place}" in ran.out
    assert tree.compiles()


def test_the_report_has_the_place_the_count_and_on_request_what_passed(tree: Tree) -> None:
    both = [CALL + 'expect = "allow"\n', CALL.replace('"it"', '"that"') + 'expect = "refuse"\n']
    tree.write("tests.d/it.toml", "".join(both))
    ran = tree.run("test", "-v")

    assert ran.code == 1
    assert ran.out.startswith("tests.d/it.toml:2: ok: it (served by first, second)\n")
    assert "tests.d/it.toml:9:8: error[E-SCENARIO]: that: expected a refusal" in ran.out
    assert ran.out.endswith("2 scenarios: 1 passed, 1 failed\n")
    assert tree.run("test", "--format", "github").out.startswith("::error file=tests.d/it.toml,line=9,")
    assert json.loads(tree.run("test", "--format", "sarif").out)["runs"][0]["results"][0]["ruleId"] == "E-SCENARIO"
    found = tree.run("test", "--json").json
    assert (found["passed"], found["failed"], [one["passed"] for one in found["scenarios"]]) == (1, 1, [True, False])


def test_a_tree_without_scenarios_passes_and_one_with_errors_is_not_tried(tree: Tree) -> None:
    assert tree.run("test").out == "no scenarios in tests.d\n"
    assert tree.run("test").code == 0

    tree.write("relay.toml", "schema = 1\n")
    ran = tree.run("test")
    assert (ran.code, ran.err) == (1, "relayd test: the tree has errors, so no scenario was tried\n")


def test_the_sample_tree_shows_the_feature_and_passes() -> None:
    ran = Tree(Path(__file__).parents[2]).run("test", "--json")

    assert ran.code == 0
    assert ran.json["passed"] >= 5
    assert {one["status"] for one in ran.json["scenarios"]} >= {200, 403, 429, 529}
