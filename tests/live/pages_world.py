"""A daemon with admin pages, and a browser without scripts: cookies, forms, redirects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import unescape
from typing import Any

import attrs
import httpx2
from daemon import PATIENCE, Daemon

from relayd.config.secrets.password_hash import hash_password
from relayd.config.secrets.secret import Secret

PASSWORD = "correct horse battery"
# Certificates are not looked at: all is plain HTTP, and reading the store of them takes longer than a page.
ONE_BY_ONE = httpx2.Limits(max_keepalive_connections=0)  # so that nothing is left open at the end of a test


@cache
def password_hash() -> str:
    """Of PASSWORD; made once, for it is slow on purpose."""
    return hash_password(Secret(PASSWORD), lambda size: b"\x05" * size)


def pages_table(*, more: str = "", users: Mapping[str, str] | None = None) -> str:
    """[admin] with a listener on a free port, and users by name with their role."""
    roles = {"alice": "editor", "victor": "viewer"} if users is None else users
    entries = [
        f'[[admin.users]]\nname = "{name}"\npassword_hash = "{password_hash()}"\nrole = "{role}"\n'
        f'email = "{name}@example.com"\n'
        for name, role in roles.items()
    ]
    return f'[admin]\nlisten = "127.0.0.1:0"\n{more}\n' + "\n".join(entries)


@attrs.define(eq=False)
class Browser:
    """What a visitor does without scripts."""

    http: httpx2.Client
    base: str

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.http.get(f"{self.base}{path}", headers=_dashed(headers), follow_redirects=True)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx2.Response:
        """As a form of one of our own pages does; `headers` replace what such a form would send."""
        sent = {"origin": self.base, **_dashed(headers)}
        return self.http.post(f"{self.base}{path}", data=dict(fields), headers=sent, follow_redirects=True)

    def submit(self, page: httpx2.Response, action: str, **fields: str) -> httpx2.Response:
        """Send a form of a page, with what stands in its hidden fields."""
        return self.post(action, {**hidden_fields(page.text, action), **fields})

    def sign_in(self, name: str = "alice", password: str = PASSWORD, **more: str) -> httpx2.Response:
        return self.post("/web/sign-in", {"name": name, "password": password, **more})


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def admin_url(daemon: Daemon) -> str:
    (base,) = daemon.events("daemon.listening")[-1]["admin"]
    return str(base)


def browser(daemon: Daemon, **headers: Any) -> Browser:
    """A fresh one."""
    return Browser(
        httpx2.Client(
            verify=False, timeout=PATIENCE, limits=ONE_BY_ONE, headers={"accept-language": "en", **_dashed(headers)}
        ),
        admin_url(daemon),
    )


def csrf_of(page: httpx2.Response) -> dict[str, str]:
    """The token of the session that a page was shown to."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return {"csrf": found[1]}


def hidden_fields(text: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form with that action. Raises: AssertionError."""
    form = re.search(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', text, re.DOTALL)
    assert form is not None, f"no form to {action} in {text}"
    pairs = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[1])
    return {name: unescape(value) for name, value in pairs}
