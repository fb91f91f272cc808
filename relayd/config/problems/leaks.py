"""Leaked secrets: secrets that a text contains in clear, and how to show a text without them.

Rule: nothing here returns a secret. Two patterns for each kind: a strict one, which proves a leak and makes an error,
and a loose one, which hides whatever looks like it before a text is shown. Hiding too much is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from relayd.config.secrets.api_keys import KEY_PATTERN, find_keys
from relayd.config.snapshot import Account, AdminToken, AdminUser, Alert, Credential
from relayd.noun import noun


@noun(kw_only=True)
class Leak:
    """A secret in clear: where it stands (offsets into the text) and what it is, without the secret itself."""

    start: int
    end: int
    code: str
    what: str


# The prefixes are those of the Claude console's keys, OAuth tokens and session keys, of relayd's identities, of RFC
# 7468 and of the chat services' incoming webhooks, whose URL is their only secret.
_SECRETS = (
    (re.compile(r"sk-ant-[A-Za-z0-9_-]{16,}"), "a Claude API credential"),
    (re.compile(r"\brlkey[12][A-Za-z0-9_.-]{20,}"), "a private identity of relayd"),
    (re.compile(r"\brladm_[A-Za-z0-9]{43}\b"), "a token of the admin listener"),
    (re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"), "a private key"),
    (re.compile(r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}"), "a Slack webhook"),
    (re.compile(r"https://(?:\w{1,20}\.)?discord(?:app)?\.com/api/webhooks/[0-9]+/[\w-]{20,}"), "a Discord webhook"),
)
# One pass that finds nothing in almost every file, instead of one for each pattern.
_SUSPICIOUS = re.compile(r"sk-ant-|rlkey|rladm_|PRIVATE KEY|https://")

_LOOSE = re.compile(
    r"sk-ant-[\w-]{4,}|sk-relay-[0-9A-Za-z]{12,}|rlkey[12][\w.-]{4,}|rladm_\w{8,}|-----BEGIN [^\n]*"
    r"|(?<=://)[^\s/@\"']{1,300}@|\beyJ[\w-]{16,}[\w.-]*"
    r"|https://hooks\.slack\.com/[^\s\"']+|https://(?:\w{1,20}\.)?discord(?:app)?\.com/api/webhooks/[^\s\"']+"
)
_SECRET_WORD = re.compile(
    r"pass|secret|token(?!s)|credential|cookie|authorization|api[_-]?key|session", re.IGNORECASE
)  # counts of tokens are not secret
_SECRET_FIELDS = frozenset(
    field.name
    for noun in (Account, AdminToken, AdminUser, Alert, Credential)
    for field in attrs.fields(noun)
    if field.metadata.get("secret")
) - {"sha256"}  # of other tables a `sha256` is public, and a hash of 256 random bits gives nothing away
_BARE = r"[A-Za-z0-9_-]"
_ASSIGNED = re.compile(rf"(?<!{_BARE})([\"']?)({_BARE}+)\1[ \t]*=[ \t]*")
_HIDDEN = "\N{BULLET}"


def find_leaks(text: str) -> Iterator[Leak]:
    """Every secret in clear, in values and comments alike."""
    for pattern, what in _SECRETS if _SUSPICIOUS.search(text) else ():
        for match in pattern.finditer(text):
            yield Leak(start=match.start(), end=match.end(), code="E-PLAINTEXT-SECRET", what=what)
    if not KEY_PATTERN.search(text):
        return
    starts = _line_starts(text)
    for found in find_keys(text):
        start = starts[found.line - 1] + found.column - 1
        yield Leak(start=start, end=start + 58, code="E-PLAINTEXT-KEY", what=f"the whole API key {found.hint}...")


def redact(text: str) -> str:
    """The text with all that looks like a secret hidden, character for character, so that columns still fit."""
    return _LOOSE.sub(lambda match: _HIDDEN * len(match[0]), text)


def redact_line(line: str) -> str:
    """One line of a config file, fit to be shown: also hides what is assigned to a key that holds secrets."""
    for match in _ASSIGNED.finditer(line):
        name = match[2]
        if not name.endswith("_file") and (name in _SECRET_FIELDS or _SECRET_WORD.search(name)):
            return redact(line[: match.end()]) + hide(line[match.end() :])
    return redact(line)


def hide(text: str) -> str:
    """The text with every visible character hidden."""
    return re.sub(r"\S", _HIDDEN, text)


def _line_starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]
