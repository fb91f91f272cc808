"""Client rules: which program is calling, and may it use this key?

A User-Agent proves nothing: these rules keep honest programs apart and are not a means of security. Rules are
patterns, so that the next release of a client does not break them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from relayd.config.pattern import Pattern
from relayd.config.snapshot import ApiKey, ClientRule
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal


def matches(rule: ClientRule, headers: Headers) -> bool:
    """Whether every pattern of the rule is found."""
    if rule.user_agent is not None and not _found(rule.user_agent, headers.text(b"user-agent")):
        return False
    return all(
        _found(pattern, headers.text(name.lower().encode("ascii", "replace"))) for name, pattern in rule.headers.items()
    )


def _found(pattern: Pattern, text: str) -> bool:
    """Whether a pattern is found in a text. Programs say the same again and again; 30 us of RE2 are then one of a look
    into a table."""
    return bool(pattern.search(text)) if len(text) > _SHORT else _remembered(pattern.search, text)


_SHORT = 256  # characters that are worth remembering, so that 4096 of them are 1 MB


@lru_cache(maxsize=4096)
def _remembered(search: Callable[[str], object], text: str) -> bool:
    return bool(search(text))


def identify(headers: Headers, rules: Mapping[str, ClientRule], among: tuple[str, ...] = ()) -> str:
    """The id of the first rule that matches, of those named in `among` (all when it is empty); "" for none."""
    for name in among or rules:
        rule = rules.get(name)
        if rule is not None and matches(rule, headers):
            return name
    return ""


def permit(headers: Headers, key: ApiKey, rules: Mapping[str, ClientRule]) -> str:
    """The client's rule id, when the key allows that client.

    Raises: Refusal 403 that names the clients allowed and what was seen.
    """
    found = identify(headers, rules, key.clients)
    if found or not key.clients:
        return found
    allowed = ", ".join(rules[name].name if name in rules else name for name in key.clients)
    seen = headers.text(b"user-agent")[:80] or "no User-Agent"
    raise Refusal(
        status=403,
        message=f"this key may only be used by {allowed}; this client says {seen!r}",
        code="client_not_allowed",
    )
