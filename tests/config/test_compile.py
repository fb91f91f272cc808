from __future__ import annotations

import json
import random
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.compile_shapes import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.compile import MAX_PROBLEMS, Compiled, Memo, compile_tree
from relayd.config.problems.problem import ConfigError, Problem
from relayd.config.problems.report import as_dict, as_github, as_sarif, as_text
from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import PREDEFINED_CLIENTS, Limits, Rate
from relayd.config.source.tree import read_files

CORPUS = Path(__file__).parent.parent / "corpus" / "config"
SAMPLE = read_files(CORPUS / "sample.good")
ROOT = Path(__file__).parent.parent.parent

RELAY = 'schema = 1\nrealm = "test"\n'
ACCOUNT = 'kind = "simulator"\n'
KEY = f'hashes = [{{ sha256 = "{"1" * 64}" }}]\n'


def tree(relay: str = RELAY, account: str = ACCOUNT, key: str = KEY, **more: str) -> dict[str, bytes]:
    files = {"relay.toml": relay, "accounts.d/a.toml": account, "keys.d/k.toml": key, **more}
    return {path: text.encode() for path, text in files.items()}


def codes(compiled: Compiled) -> list[str]:
    return [problem.code for problem in compiled.problems]


def all_reports(problems: tuple[Problem, ...]) -> str:
    dicts = json.dumps([as_dict(problem) for problem in problems], ensure_ascii=False)
    texts = "\n".join(str(problem) for problem in problems) + repr(problems)
    return as_text(problems) + as_github(problems) + as_sarif(problems) + dicts + texts


# --- what a sound tree becomes


def test_a_minimal_tree_has_every_default() -> None:
    snapshot = compile_tree(tree()).require()

    assert snapshot.relay.server.listen == ("127.0.0.1:3000",)
    assert snapshot.accounts["a"].groups == ("default",)
    assert snapshot.keys["k"].endpoints == ("messages", "openai", "models")
    assert snapshot.keys_by_hash[bytes.fromhex("1" * 64)] == (snapshot.keys["k"], snapshot.keys["k"].hashes[0])


def test_a_limit_left_out_is_the_relays_and_a_zero_is_none() -> None:
    relay = RELAY + '[limits]\nconcurrency = 20\ndaily_cost = "5"\nrate = { requests = 9, window = "10s" }\n'
    key = KEY + "[limits]\nconcurrency = 0\nmonthly_requests = 7\n"

    limits = compile_tree(tree(relay, key=key)).require().keys["k"].limits

    assert limits == Limits(concurrency=0, daily_cost=5_000_000, monthly_requests=7, rate=Rate(requests=9, window=10.0))


def test_a_key_without_limits_has_the_relays() -> None:
    snapshot = compile_tree(tree(RELAY + "[limits]\nconcurrency = 20\n")).require()

    assert snapshot.keys["k"].limits == snapshot.relay.limits


def test_an_alias_of_an_alias_leads_to_the_model_at_its_end() -> None:
    relay = RELAY + '[models]\nfast = "quick"\nquick = "claude-haiku-4-5"\n'

    assert compile_tree(tree(relay)).require().relay.models == {"fast": "claude-haiku-4-5", "quick": "claude-haiku-4-5"}


def test_client_rules_are_added_to_the_predefined_ones_and_may_replace_them() -> None:
    relay = RELAY + "[clients.codex_cli]\nuser_agent = '^mine'\n[clients.other]\nuser_agent = 'x'\n"

    clients = compile_tree(tree(relay)).require().relay.clients

    assert set(clients) == {*PREDEFINED_CLIENTS, "other"}
    assert clients["claude_code"] == PREDEFINED_CLIENTS["claude_code"]
    assert clients["codex_cli"].user_agent.pattern == "^mine"
    assert clients["other"].name == "other"


@pytest.mark.parametrize(
    ("client", "user_agent"),
    [
        ("claude_code", "claude-cli/2.1.330 (external, sdk-cli)"),
        ("claude_code", "claude-cli/2.0.76 (external, cli)"),
        ("claude_code", "claude-code/2.1.330"),
        ("gemini_cli", "GeminiCLI-tui/0.61.0/gemini-3.1-pro-preview (linux; x64; terminal)"),
        ("gemini_cli", "GeminiCLI/0.1.0 (darwin; arm64)"),
        ("codex_cli", "codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color (codex_exec; 0.169.0)"),
        ("codex_cli", "codex_cli_rs/0.50.0 (Mac OS 15.0; arm64)"),
    ],
)
def test_a_predefined_rule_recognises_its_program_and_no_other_one(client: str, user_agent: str) -> None:
    found = [name for name, rule in PREDEFINED_CLIENTS.items() if rule.user_agent.search(user_agent)]

    assert found == [client]


def test_an_sdk_is_none_of_the_predefined_clients() -> None:
    for user_agent in ("Anthropic/Python 2.12.0", "OpenAI/JS 6.49.0", "curl/8", "evil claude-cli/1.0 (external, cli)"):
        assert not any(rule.user_agent.search(user_agent) for rule in PREDEFINED_CLIENTS.values())


def test_deny_and_prices_are_part_of_the_snapshot() -> None:
    prices = (
        '[models.m]\ninput = "3"\noutput = "15"\ncache_write_5m = "3.75"\ncache_write_1h = "6"\ncache_read = "0.3"\n'
    )
    files = tree(**{"deny.toml": 'keys = ["k"]\nips = ["192.0.2.0/24"]\n', "prices.toml": prices})

    snapshot = compile_tree(files).require()

    assert snapshot.deny.keys == ("k",)
    assert snapshot.prices["m"].cache_write_5m == 3_750_000


def test_the_revision_follows_the_config_and_nothing_else() -> None:
    base = compile_tree(tree()).revision
    same = [tree(**{"tests.d/x.toml": "a = 1\n"}), tree(**{"keys.d/.k.toml.swp": "x"}), tree(**{"notes.txt": "x"})]
    other = [tree(RELAY + "# x\n"), tree(**{"deny.toml": "keys = []\n"}), tree(**{"keys.d/l.toml": KEY})]

    assert {compile_tree(files).revision for files in same} == {base}
    assert base not in {compile_tree(files).revision for files in other}
    assert len(base) == 12


def test_the_order_of_the_files_does_not_matter() -> None:
    backwards = compile_tree(dict(reversed(SAMPLE.items())))

    assert backwards == compile_tree(SAMPLE)


def test_a_snapshot_shows_no_sealed_value_in_its_repr() -> None:
    sealed = tomllib.loads(SAMPLE["accounts.d/main.toml"].decode())["credential"]["sealed"]

    assert sealed not in repr(compile_tree(SAMPLE).require())


# --- problems


def test_every_problem_of_every_file_is_reported_at_once() -> None:
    compiled = compile_tree(tree("= 1\n", 'kind = "x"\nweight = 0\n', "hashes = 3\n"))

    assert codes(compiled) == ["E-CHOICE", "E-RANGE", "E-TYPE", "E-SYNTAX"]
    with pytest.raises(ConfigError) as caught:
        compiled.require()
    assert caught.value.problems == compiled.problems


def test_a_warning_does_not_stop_the_tree() -> None:
    compiled = compile_tree(tree(key=KEY + 'groups = ["nobody"]\n'))

    assert codes(compiled) == ["N-UNUSED-ACCOUNT", "W-EMPTY-GROUP"]
    assert compiled.snapshot is not None


def test_a_broken_account_does_not_make_its_groups_look_empty() -> None:
    compiled = compile_tree(tree(account='kind = "simulator"\ngroups = ["g"]\nx = 1\n', key=KEY + 'groups = ["g"]\n'))

    assert codes(compiled) == ["E-UNKNOWN-KEY"]


def test_problems_beyond_a_hundred_are_counted_and_errors_come_first() -> None:
    files = tree(**{f"keys.d/k{n}.toml": f'hashes = [{{ sha256 = "{n:064x}" }}]\ngroups = ["x"]\n' for n in range(120)})
    files["relay.toml"] += b"wrong = 1\n"

    compiled = compile_tree(files)

    assert len(compiled.problems) == MAX_PROBLEMS
    assert compiled.omitted == 21
    assert "E-UNKNOWN-KEY" in codes(compiled)


def test_problems_of_one_file_beyond_a_hundred_are_counted_too() -> None:
    compiled = compile_tree(tree(relay=RELAY + "".join(f"[a{n}]\n" for n in range(250))))

    assert len(compiled.problems) == MAX_PROBLEMS
    assert compiled.omitted == 150


@pytest.mark.parametrize("shape", trees(1))
def test_four_times_the_file_is_four_times_the_work(shape: str) -> None:
    work = [calls_of(lambda n=n: compile_tree(trees(n)[shape])) for n in (250, 1000)]  # type: ignore[misc]
    spent = [min(cpu_of(lambda n=n: compile_tree(trees(n)[shape])) for _ in range(2)) for n in (1000, 4000)]  # type: ignore[misc]

    assert work[1] < 6 * work[0]
    assert spent[1] < 10 * max(spent[0], 0.005)


def calls_of(act: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C; each item of a generator is one."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def cpu_of(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def test_an_alias_leads_to_the_end_of_its_chain_and_a_ring_is_shown_by_its_first_steps() -> None:
    chain = "".join(f'a{n} = "a{n + 1}"\n' for n in range(50))
    ring = "".join(f'b{n} = "b{(n + 1) % 50}"\n' for n in range(50))
    leading = 'c = "b3"\n'

    models = compile_tree(tree(relay=f"{RELAY}[models]\n{chain}")).require().relay.models
    problems = compile_tree(tree(relay=f"{RELAY}[models]\n{ring}{leading}")).problems

    assert set(models.values()) == {"a50"}
    assert len(problems) == 51
    assert all("-> ..." in problem.message for problem in problems)


def test_several_workers_are_nothing_to_remark_on() -> None:
    assert codes(compile_tree(tree(RELAY + "[server]\nworkers = 2\n"))) == []
    assert codes(compile_tree(tree(RELAY + '[server]\nworkers = "auto"\nmax_memory = "1GiB"\n'))) == []


def test_the_id_of_an_object_cannot_be_written_into_its_file() -> None:
    compiled = compile_tree(tree(account=ACCOUNT + 'id = "b"\n'))

    assert [(problem.code, problem.line) for problem in compiled.problems] == [("E-UNKNOWN-KEY", 2)]


def test_a_whole_key_is_found_wherever_it_stands() -> None:
    key = mint(lambda size: b"\x07" * size)
    for files in (
        tree(RELAY + f"# {key}\n"),
        tree(account=ACCOUNT + f'name = "{key}"\n'),
        tree(key=KEY + f"# {key}\n"),
    ):
        compiled = compile_tree(files)

        assert codes(compiled) == ["E-PLAINTEXT-KEY"]
        assert key not in all_reports(compiled.problems)


def test_a_text_that_only_looks_like_a_key_is_no_leak() -> None:
    key = mint(lambda size: b"\x07" * size)
    mistyped = key[:-1] + ("a" if key[-1] != "a" else "b")

    assert codes(compile_tree(tree(RELAY + f"# {mistyped}\n"))) == []


SECRET_PLACES = {
    "credential.sealed": ("account", 'kind = "api-key"\n[credential]\nsealed = "{}"\n'),
    "credential, inline, with a typing error": (
        "account",
        'kind = "api-key"\ncredential = {{ seald = "{}", file = 3 }}\n',
    ),
    "an unknown key": ("account", ACCOUNT + 'seald = "{}"\n'),
    "an unknown table": ("account", ACCOUNT + '[secret]\nx = "{}"\n'),
    "a header": ("account", ACCOUNT + '[headers]\n"x y" = "{}"\nauthorization = "{}"\n'),
    "a proxy": ("account", ACCOUNT + 'proxy = "socks4://user:{}@host:1"\n'),
    "a base_url": ("account", ACCOUNT + 'base_url = "https://user:{}@host"\n'),
    "a password": ("relay", RELAY + '[[admin.users]]\nname = "a"\npassword_hash = "{}"\n'),
    "a password of the wrong type": ("relay", RELAY + '[[admin.users]]\nname = "a"\npassword_hash = ["{}"]\n'),
    "a state url": ("relay", RELAY + '[state]\nurl = "redis://:{}@host"\n'),
    "an alert": ("relay", RELAY + '[alerts.x]\nurl = "{}"\nformat = 1\n'),
    "an alert, inline": ("relay", RELAY + 'alerts = {{ x = {{ url = "{}", format = 1 }} }}\n'),
    "a totp seed": ("relay", RELAY + '[[admin.users]]\nname = "a"\npassword_hash = "x"\ntotp = "{}"\n'),
    "a hash": ("key", 'hashes = [{{ sha256 = "{}" }}]\n'),
    "a line that is not TOML": ("account", 'kind = "api-key"\n[credential]\nsealed = {}\n'),
    "a string that is not closed": ("account", 'kind = "api-key"\n[credential]\nsealed = "{}\n'),
    "a broken multi-line string": ("account", 'kind = "api-key"\n[credential]\nsealed = """\n{} \\q\n"""\n'),
    "a Claude API key in a comment": ("account", ACCOUNT + "# sk-ant-api03-{}\nx = 1 # sk-ant-api03-{}\n"),
}


@pytest.mark.parametrize("place", SECRET_PLACES)
@settings(deadline=None, max_examples=15)
@given(secret=st.text("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789_-", min_size=20, max_size=40))
def test_no_report_shows_a_secret_wherever_it_was_put(place: str, secret: str) -> None:
    kind, template = SECRET_PLACES[place]
    compiled = compile_tree(tree(**{kind: template.format(*[secret] * template.count("{}"))}))

    assert compiled.snapshot is None
    assert secret not in all_reports(compiled.problems)
    assert secret[:12] not in all_reports(compiled.problems)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_planted_error_is_reported_at_its_very_line(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(SAMPLE)))
    lines = SAMPLE[path].decode().splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines)))
    files = {**SAMPLE, path: "".join([*lines[:at], "zzz_unknown = 1\n", *lines[at:]]).encode()}

    errors = [problem for problem in compile_tree(files).problems if problem.severity == "error"]

    assert [(problem.file, problem.line) for problem in errors] == [(path, at + 1)]


TYPES = {str: "5", int: '"5"', bool: '"yes"', float: '"x"', list: "{}", dict: "true"}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_value_of_the_wrong_type_is_reported_at_its_place(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(SAMPLE)))
    lines = SAMPLE[path].decode().splitlines(keepends=True)
    at = data.draw(st.sampled_from([number for number, line in enumerate(lines) if " = " in line]))
    key, value = lines[at].rstrip("\n").split(" = ", 1)
    wrong = TYPES.get(type(tomllib.loads(f"x = {value}")["x"]), "5")
    files = {**SAMPLE, path: "".join([*lines[:at], f"{key} = {wrong}\n", *lines[at + 1 :]]).encode()}

    errors = [problem for problem in compile_tree(files).problems if problem.severity == "error"]

    assert (path, at + 1) in {(problem.file, problem.line) for problem in errors}
    assert {problem.column for problem in errors if problem.line == at + 1} & {1, len(key) + 4}


def assert_sound(compiled: Compiled, files: dict[str, bytes]) -> None:
    """Whatever went in: problems have places that exist, and there is a snapshot exactly when there is no error."""
    assert (compiled.snapshot is None) == any(problem.severity == "error" for problem in compiled.problems)
    for problem in compiled.problems:
        assert problem.file in files or problem.code == "E-NO-RELAY-TOML"
        if problem.line:
            text = files[problem.file].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").replace("\r\n", "\n")
            lines = text.split("\n")
            assert problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
            assert problem.column < problem.end_column
            assert len(problem.excerpt) <= len(lines[problem.line - 1])
    assert all_reports(compiled.problems) is not None


PATHS = st.sampled_from(
    ["relay.toml", "accounts.d/a.toml", "keys.d/k.toml", "deny.toml", "prices.toml", "keys.d/x.txt"]
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(PATHS, st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)), max_size=4))
def test_any_bytes_at_all_give_problems_and_never_an_exception(files: dict[str, bytes]) -> None:
    assert_sound(compile_tree(files), files)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_tree_gives_problems_and_never_an_exception(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(SAMPLE)))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    content = bytearray(SAMPLE[path])
    for _ in range(data.draw(st.integers(1, 4))):
        start = rng.randrange(len(content) + 1)
        content[start : start + rng.randrange(6)] = bytes(
            rng.choice(b"\"'[]{}=,.#\n \\1a-\xff") for _ in range(rng.randrange(4))
        )
    files = {**SAMPLE, path: bytes(content)}

    assert_sound(compile_tree(files), files)


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a=" * 100_000,
        b"a." * 200_000 + b"b = 1",
        b"[" + b"a." * 200_000 + b"b]",
        b"a = " + b"1" * 100_000,
        b"a = 0x" + b"f" * 100_000,
        b"a" * 1_000_000,
        b'a = "' + b"\\" * 1_000_000,
        b'a = """' + b'"' * 1_000_000,
        b"#" * 1_048_577,
        b"\n" * 1_000_000,
        b"a = '" + b"(" * 400 + b"'",
    ],
    ids=range(12),
)
def test_hostile_files_are_refused_in_no_time(content: bytes) -> None:
    files = {**tree(), "relay.toml": content}

    assert_sound(compile_tree(files), files)


# --- memory


def test_a_memo_changes_the_speed_and_not_the_result() -> None:
    memo = Memo()
    first = compile_tree(SAMPLE, memo=memo)
    again = compile_tree(SAMPLE, memo=memo)
    edited = {**SAMPLE, "keys.d/dev.toml": SAMPLE["keys.d/dev.toml"] + b"wrong = 1\n"}

    assert again == first
    assert again.snapshot.accounts["main"] is first.snapshot.accounts["main"]
    assert compile_tree(edited, memo=memo) == compile_tree(edited)
    assert compile_tree(SAMPLE, memo=memo) == first


def test_a_memo_forgets_files_that_are_gone() -> None:
    memo = Memo()
    compile_tree(tree(**{"keys.d/old.toml": KEY}), memo=memo)
    compile_tree(tree(), memo=memo)

    assert set(memo.parsed) == set(tree())


def test_a_file_that_moved_is_judged_anew() -> None:
    memo = Memo()
    compile_tree(tree(), memo=memo)
    moved = {**tree(), "accounts.d/b.toml": tree()["accounts.d/a.toml"]}
    del moved["accounts.d/a.toml"]

    assert set(compile_tree(moved, memo=memo).require().accounts) == {"b"}


# --- the repository's own tree


def test_the_repositorys_own_tree_is_sound_and_its_client_rules_are_the_predefined_ones() -> None:
    compiled = compile_tree(read_files(ROOT))

    assert compiled.problems == ()
    assert compiled.require().relay.clients == PREDEFINED_CLIENTS


def test_the_demo_key_of_the_repository_reaches_nothing_but_the_simulator() -> None:
    snapshot = compile_tree(read_files(ROOT)).require()
    reachable = [
        account.kind
        for key in snapshot.keys.values()
        for account in snapshot.accounts.values()
        if set(key.groups) & set(account.groups)
    ]

    assert set(reachable) == {"simulator"}


def test_the_hash_of_a_minted_key_is_one_that_compiles() -> None:
    key = mint(lambda size: b"\x09" * size)
    snapshot = compile_tree(tree(key=f'hashes = [{{ sha256 = "{key_hash(key)}" }}]\n')).require()

    assert bytes.fromhex(key_hash(key)) in snapshot.keys_by_hash
