"""Client rules: which program is calling, and may it use this key?

A User-Agent proves nothing: these rules keep honest programs apart and are not a means of security. Rules are
patterns, so that the next release of a client does not break them.
"""

from __future__ import annotations

from collections.abc import Mapping

from relayd.config.snapshot import ApiKey, ClientRule
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal


def matches(rule: ClientRule, headers: Headers) -> bool:
    """Whether every pattern of the rule is found."""
    if rule.user_agent is not None and not rule.user_agent.search(headers.text(b"user-agent")):
        return False
    return all(
        pattern.search(headers.text(name.lower().encode("ascii", "replace"))) for name, pattern in rule.headers.items()
    )


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
