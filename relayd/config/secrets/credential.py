"""Credentials: what is worth saying about a kind of credential, and whether a text looks like one.

Rule: pure; a secret goes in, words about it come out, never the secret.

Source: Claude Code docs, "Legal and compliance" (OAuth authentication of Free, Pro and Max plans is for the buyer's use
of Anthropic's own applications; third parties may not route requests through it on behalf of their users; API keys
from the console are the supported way).
"""

from __future__ import annotations

import json
from typing import Protocol

import attrs

from relayd.config.secrets.secret import Secret

# The starts of credentials as the Claude console, `claude setup-token` and claude.ai hand them out.
PREFIXES = {"api-key": ("sk-ant-api",), "oauth": ("sk-ant-oat",), "session-key": ("sk-ant-sid",)}


@attrs.frozen(kw_only=True)
class CredentialWarning:
    """`code` is stable and starts with `W-`."""

    code: str
    message: str


class HasKind(Protocol):
    """relayd.config.snapshot.Account is one."""

    @property
    def kind(self) -> str: ...


def credential_warnings(account: HasKind) -> list[CredentialWarning]:
    """What an operator should know before using an account of this kind."""
    if account.kind == "session-key":
        return [CredentialWarning(code="W-SESSION-KEY", message=_SESSION_KEY)]
    if account.kind == "oauth":
        return [CredentialWarning(code="W-OAUTH-PERSONAL", message=_OAUTH)]
    return []


def shape_warning(kind: str, secret: Secret) -> str:
    """Why the secret does not look like a credential of the kind; "" when it does. Only a hint: shapes change."""
    text = secret.reveal()
    if kind == "oauth" and text.startswith("{"):
        return ""
    expected = PREFIXES.get(kind, ())
    for other, prefixes in PREFIXES.items():
        if other != kind and text.startswith(prefixes):
            return f"this looks like the credential of an account of kind {other}, not {kind}"
    if not text.startswith(expected):
        return f"a credential of kind {kind} usually starts with {' or '.join(expected)}"
    return ""


def why_unusable(secret: Secret, kind: str = "") -> str:
    """Why no request could carry the secret; "" when one could. `kind`: of the account; "" = not looked at."""
    text = secret.reveal()
    if not text:
        return "the secret is empty"
    if text.startswith("{"):
        return _why_not_tokens(text) if kind == "oauth" else f"a credential of kind {kind} is no JSON" if kind else ""
    if text != text.strip() or text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        return "the secret begins or ends with white space or a byte order mark (was too much copied?)"
    if "\n" in text:
        return "the secret has more than one line"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "the secret has characters that a header cannot carry"
    return ""


def _why_not_tokens(text: str) -> str:
    try:
        tokens = json.loads(text)
    except ValueError:
        return "this starts like JSON and is none"
    if not isinstance(tokens, dict) or not isinstance(tokens.get("access_token"), str) or not tokens["access_token"]:
        return "the JSON of an OAuth credential needs access_token (and refresh_token, expires_at to be refreshed)"
    return ""


_SESSION_KEY = (
    "a session key is the log-in of a person's browser: Anthropic's terms allow neither handing it to other software "
    "nor serving other people with it, and it stops working without notice; an API key is the supported way"
)
_OAUTH = (
    "if these tokens come from a personal subscription (Free, Pro, Max), Anthropic's terms allow them only for the "
    "buyer's own use of Anthropic's applications, not for relaying other people's requests, and the account may be "
    "closed; an API key is the supported way"
)
