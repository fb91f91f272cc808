"""A daemon whose tree is a git repository, and what an editor does on its pages."""

from __future__ import annotations

import re
import subprocess
from html import unescape
from pathlib import Path

import attrs
import httpx2
from daemon import Daemon
from pages_world import Browser, browser
from waiting import PATIENCE

ASK = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}


def git(root: Path, *words: str) -> str:
    own = ("-c", "user.name=setup", "-c", "user.email=setup@example.com")
    return subprocess.run(["git", "-C", str(root), *own, *words], capture_output=True, text=True, check=True).stdout


@attrs.define(eq=False)
class EditWorld:
    """A daemon, its tree and the remote that edits are pushed to."""

    daemon: Daemon
    remote: Path
    _signed_in: dict[str, Browser] = attrs.field(factory=dict)

    @property
    def tree(self) -> Path:
        return self.daemon.tree

    def editor(self, name: str = "alice") -> Browser:
        """Somebody who is signed in; each person has one session."""
        if name not in self._signed_in:
            self._signed_in[name] = browser(self.daemon)
            self._signed_in[name].sign_in(name)
        return self._signed_in[name]

    def head(self) -> str:
        return git(self.tree, "rev-parse", "HEAD").strip()

    def call(self, key: str) -> int:
        return httpx2.post(
            f"{self.daemon.url}/v1/messages", headers={"x-api-key": key}, json=ASK, verify=False, timeout=PATIENCE
        ).status_code


def look(one: Browser, page: str, do: str, **fields: str) -> httpx2.Response:
    """The preview that a form leads to. `page`: where the form is."""
    shown = one.get(page)
    forms = re.findall(r'<form method="post" action="/web/edit/preview".*?</form>', shown.text, re.DOTALL)
    (form,) = [form for form in forms if f'name="do" value="{do}"' in form][:1]
    found = dict(re.findall(r'<input[^>]*name="([^"]*)"[^>]*?value="([^"]*)"', form))
    found |= dict(re.findall(r'<textarea name="([^"]*)"[^>]*>\n?(.*?)</textarea>', form, re.DOTALL))
    return one.post("/web/edit/preview", {name: unescape(value) for name, value in found.items()} | fields)


def confirm(one: Browser, preview: httpx2.Response) -> httpx2.Response:
    return one.submit(preview, "/web/edit/confirm")


def may_confirm(preview: httpx2.Response) -> bool:
    return "/web/edit/confirm" in preview.text


def diff_of(page: httpx2.Response) -> list[str]:
    """The lines that change."""
    text = re.search(r'<pre class="diff".*?</pre>', page.text, re.DOTALL)
    assert text is not None, page.text
    lines = unescape(re.sub(r"<[^>]*>", "", text[0])).split("\n")
    return [line for line in lines if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))]
