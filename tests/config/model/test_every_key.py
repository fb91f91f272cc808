"""Every key of the schema, one by one: a right value is taken, a wrong one is refused at its very line.

The rows are those of `relayd schema --table`, so a new key is tried as soon as it is there, and a new kind of value
needs an example here.
"""

from __future__ import annotations

import re

import pytest
from builders import KEY

from relayd.config.compile import compile_tree
from relayd.config.model.json_schema import KINDS, KeyRow, rows
from relayd.config.problems.problem import Problem
from relayd.config.secrets.api_keys import key_hash
from relayd.config.secrets.binding import Binding, account_binding, alert_binding, totp_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret

IDENTITY = new_identity(lambda size: b"\x07" * size)
FILES = {
    "relay": "relay.toml",
    "account": "accounts.d/x.toml",
    "key": "keys.d/x.toml",
    "deny": "deny.toml",
    "prices": "prices.toml",
    "test": "tests.d/x.toml",
}
# A right value of each type that is no list of words, and not the default of most keys that have the type.
EXAMPLES = {
    "integer": "3",
    "number": "0.5",
    "boolean": "false",
    "string": '"some words"',
    "name": '"x"',
    "time": "2026-11-22T00:00:00+01:00",
    "duration": '"90s"',
    "size": '"64kB"',
    "USD": '"12.50"',
    "window": '"5h"',
    "warning code": '"W-OAUTH-PERSONAL"',
    "regex": "'^x/[0-9]+'",
    "sha256": f'"{key_hash(KEY)}"',
    "hint": '"sk-relay-AbCd"',
    "scrypt": f'"scrypt$ln=15,r=8,p=3${"c" * 22}${"a" * 43}"',
    "recipient": f'"{IDENTITY.public.text}"',
    "path": '"/run/credentials/x"',
    "timezone": '"Europe/Berlin"',
    "time of day": '"08:30"',
    "array of alert event": '["account.*", "limit.reached"]',
    "URL": '"https://api.example.com/base"',
    "proxy URL": '"socks5://127.0.0.1:1080"',
    "state url": '"rediss://redis.example.com:6380/1"',
    "address or off": '"127.0.0.1:3009"',
    "array of address": '["[::1]:3009", "unix:/run/relay.sock"]',
    "header": '"X-Remote-User"',
    "email": '"alice@example.com"',
    "array of host": '["relay.example.com"]',
    "array of network": '["10.0.0.0/8", "::1"]',
    "array of origin": '["https://api.example.com"]',
    "array of origin or any": '["https://app.example.com"]',
    "array of string": '["one", "two"]',
    "array of name": '["x"]',
    "array of glob": '["claude-*"]',
    "array of sha256": f'["{key_hash(KEY)}"]',
    "table of string": '{ "x-one" = "two" }',
    "table of regex": "{ x-app = '^cli$' }",
}
# Where the type alone does not say it.
OF_KEY = {
    ("relay", "schema"): "1",
    ("account", "kind"): '"simulator"',
    ("account", "simulator.status"): "503",
    ("key", "clients"): '["claude_code"]',
    ("relay", "policy.allowed_origins"): '["https://api.anthropic.com"]',
    ("relay", "log.levels"): '{ state = "error" }',
    ("relay", "limits.wait"): '"20s"',
    ("key", "limits.wait"): '"20s"',
    ("test", "scenario[].address"): '"192.0.2.1"',
    ("test", "scenario[].status"): "403",
}
WRONG = "07:32:00"  # a time of day: no key has such a value
EVERY = [(kind, row) for kind in KINDS for row in rows(kind)]


def binding_of(kind: str, key: str) -> Binding:
    if kind == "account":
        return account_binding("test", "x", "https://api.anthropic.com")
    if key.startswith("alerts"):
        return alert_binding("test", "x", key.rpartition(".")[2])
    return totp_binding("test", "some words")


def example(kind: str, row: KeyRow) -> str:
    if (kind, row.key) in OF_KEY:
        return OF_KEY[kind, row.key]
    if row.type == "sealed":
        return f'"{seal(Secret("sk-ant-api03-0123456789abcdef"), binding_of(kind, row.key), [IDENTITY.public])}"'
    if words := re.findall(r'"([^"]+)"', row.type):
        return f'["{words[-1]}"]' if row.type.startswith("array") else f'"{words[-1]}"'
    return EXAMPLES[row.type]


def document(key: str, value: str) -> tuple[str, int]:
    """A file with this one key in it, and its line."""
    *tables, last = key.replace("ID", "x").split(".")
    text = "# a comment\n"
    for number, table in enumerate(tables, 1):
        path = ".".join(tables[:number]).replace("[]", "")
        text += f"[[{path}]]\n" if table.endswith("[]") else f"[{path}]\n" if number == len(tables) else ""
    if key == "admin.users[].totp":
        text += 'name = "some words"\n'
    return f"{text}{last} = {value}\n", text.count("\n") + 1


def problems_at(kind: str, key: str, value: str) -> list[Problem]:
    """The errors of a tree at the one key that is under test."""
    text, line = document(key, value)
    recipients = f'recipients = [{{ name = "prod", public = "{IDENTITY.public.text}" }}]'
    files = {
        "relay.toml": f'schema = 1\nrealm = "test"\n[secrets]\n{recipients}\n',
        "accounts.d/a.toml": 'kind = "simulator"\ngroups = ["x"]\n',
        "keys.d/k.toml": f'hashes = [{{ sha256 = "{"a1" * 32}" }}]\n',
        "keys.d/x.toml": f'hashes = [{{ sha256 = "{"b2" * 32}" }}]\n',
    }
    place = FILES[kind]
    files[place] = files["relay.toml"].replace("[secrets]", text + "[secrets]") if _may_join(kind, key) else text
    line += 2 if _may_join(kind, key) else 0
    compiled = compile_tree({path: text.encode() for path, text in files.items()})
    return [problem for problem in compiled.problems if problem.file == place and problem.line == line]


def _may_join(kind: str, key: str) -> bool:
    """Whether a key of relay.toml can stand beside the rest of it."""
    return kind == "relay" and "." in key and not key.startswith("secrets")


@pytest.mark.parametrize(("kind", "row"), EVERY, ids=[f"{kind}:{row.key}" for kind, row in EVERY])
def test_a_right_value_is_taken_and_a_wrong_one_is_refused_at_its_line(kind: str, row: KeyRow) -> None:
    right = [problem for problem in problems_at(kind, row.key, example(kind, row)) if problem.severity == "error"]
    wrong = problems_at(kind, row.key, WRONG)

    assert right == []
    assert [problem.severity for problem in wrong][:1] == ["error"]
    assert row.key.rpartition(".")[2].replace("[]", "") in wrong[0].message


def test_no_example_is_left_over() -> None:
    assert set(EXAMPLES) <= {row.type for _, row in EVERY}
    assert set(OF_KEY) <= {(kind, row.key) for kind, row in EVERY}
