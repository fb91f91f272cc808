"""Credentials: whether a text looks like one of a kind of account, and whether a request could carry it.

Rule: pure; a secret goes in, words about it come out, never the secret. What the kinds are is in account_kinds.py.
"""

from __future__ import annotations

import json

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.secret import Secret


def shape_warning(kind: str, secret: Secret) -> str:
    """Why the secret does not look like a credential of the kind; "" when it does. Only a hint: shapes change."""
    text, own = secret.reveal(), ACCOUNT_KINDS.get(kind)
    if own is not None and own.refreshes and text.startswith("{"):
        return ""
    for other in ACCOUNT_KINDS.values():
        if other is not own and text.startswith(other.prefixes):
            return f"this looks like the credential of an account of kind {other.name}, not {kind}"
    if own is not None and not text.startswith(own.prefixes):
        return f"a credential of kind {kind} usually starts with {' or '.join(own.prefixes)}"
    return ""


def why_unusable(secret: Secret, kind: str = "") -> str:
    """Why no request could carry the secret; "" when one could. `kind`: of the account; "" = not looked at."""
    text = secret.reveal()
    if not text:
        return "the secret is empty"
    if text.startswith("{"):
        return _why_not_json(text, kind) if kind else ""
    if text != text.strip() or text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        return "the secret begins or ends with white space or a byte order mark (was too much copied?)"
    if "\n" in text:
        return "the secret has more than one line"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "the secret has characters that a header cannot carry"
    return ""


def _why_not_json(text: str, kind: str) -> str:
    own = ACCOUNT_KINDS.get(kind)
    if own is None or not own.refreshes:
        return f"a credential of kind {kind} is not JSON"
    try:
        tokens = json.loads(text)
    except ValueError:
        return "this starts like JSON but is not JSON"
    if not isinstance(tokens, dict) or not isinstance(tokens.get("access_token"), str) or not tokens["access_token"]:
        return "the JSON of an OAuth credential needs access_token (and refresh_token, expires_at to be refreshed)"
    return ""
