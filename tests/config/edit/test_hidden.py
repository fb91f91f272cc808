"""Hidden values: no secret is shown, and what is shown goes back to what there was."""

from __future__ import annotations

import attrs
import pytest

from relayd.config import snapshot
from relayd.config.edit.hidden import NAMES, Hider

RELAY = """\
[admin]
# a comment
[[admin.users]]
name = "alice"
password_hash = "scrypt$canary"
totp = 'rlsec1.canary'
[[admin.tokens]]
sha256 = "canary"
[alerts.ops]
url = \"\"\"
canary
\"\"\"
[secrets]
crs_encryption_key="rlsec1.canary"
"""
ACCOUNT = """\
kind = "api-key"
proxy = "http://me:canary@127.0.0.1:9"
base_url = "https://api.example"
credential = { sealed = "rlsec1.canary" }
[headers]
x-one = "canary"
"x-two" = 'canary'
[pace]
requests_per_minute = 5
"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("relay.toml", RELAY),
        ("accounts.d/a.toml", ACCOUNT),
        ("accounts.d/a.toml", ACCOUNT.replace("\n", "\r\n")),
        ("accounts.d/a.toml", 'headers = { x-one = "canary", "x-two" = "canary" }\nkind = "api-key"\n'),
        ("accounts.d/a.toml", 'headers.x-one = "canary"\n'),
        ("accounts.d/a.toml", 'proxy = "http://canary\nkind = "api-key"\n'),
        ("accounts.d/a.toml", "\"proxy\" = 'canary'\n[broken\n"),
        ("accounts.d/a.toml", 'sealed = """\ncanary'),
    ],
)
def test_no_secret_is_shown_and_all_come_back(path: str, text: str) -> None:
    hider = Hider()
    shown = hider.hide(path, text)
    assert "canary" not in shown
    assert hider.restore(shown) == text


def test_what_is_no_secret_stays() -> None:
    text = 'hashes = [{ sha256 = "ab", hint = "x" }]\nname = "url of proxy"\n'
    assert Hider().hide("keys.d/a.toml", text) == text
    shown = Hider().hide("accounts.d/a.toml", ACCOUNT)
    assert 'base_url = "https://api.example"' in shown
    assert "requests_per_minute = 5" in shown
    rule = '[clients.a]\nheaders = { x-team = "^a$" }\n'
    assert Hider().hide("relay.toml", rule) == rule


def test_one_value_has_one_number() -> None:
    hider = Hider()
    assert hider.hide("accounts.d/a.toml", 'proxy = "a"\n') == 'proxy = "(hidden 1)"\n'
    assert hider.hide("accounts.d/a.toml", 'proxy = "b"\n') == 'proxy = "(hidden 2)"\n'
    assert hider.hide("accounts.d/a.toml", 'proxy = "a"\n') == 'proxy = "(hidden 1)"\n'
    with pytest.raises(LookupError, match="hidden 3"):
        hider.restore('proxy = "(hidden 3)"')


def test_every_secret_of_the_schema_is_known() -> None:
    nouns = [noun for noun in vars(snapshot).values() if isinstance(noun, type) and attrs.has(noun)]
    secret = {field.name for noun in nouns for field in attrs.fields(noun) if field.metadata.get("secret")}
    assert secret == {*NAMES, "sha256", "headers"}
