"""Blame: the table of what an outcome costs whom, and for how long.

Rule: data only, each row with its source; which row an outcome has is decided in failover.py. docs/failover.md says the
same for operators.

Theory: a scope says who is to blame, `strike` whether it takes several, `doubt` whether it may as well be the request.
"""

from __future__ import annotations

from typing import Literal

from relayd.noun import noun

Scope = Literal["account", "model", "upstream", "node", "none"]
FailureKind = Literal["rate", "overload", "outage", "auth"]
# When an account is not blamed: never doubted; "alike": where another one answers the same call alike; "contrast":
# unless another one serves it.
Doubt = Literal["", "alike", "contrast"]


@noun(kw_only=True)
class Rule:
    """One line of the table.

    Args:
        default: the key of `[routing].cooldown` that gives the time where the answer names none.
        named: whether `retry-after` (and the reset headers of a rate limit) count.
        waits: whether the next attempt backs off.
    """

    scope: Scope
    kind: FailureKind
    default: Literal["overloaded", "server_error", "unreachable", "auth", "rate_limited"]
    strike: bool = False
    free: bool = False
    named: bool = False
    waits: bool = False
    doubt: Doubt = ""


# THE TABLE. What falls through it is delivered. Sources: API = the Claude API's documentation, "Errors" and "Rate
# limits"; SDK = what the official SDKs retry (408, 409, 429, >= 500, connection errors, x-should-retry); the rows that
# are known by their words have theirs in account_failures.py.
TABLE: dict[str, Rule] = {
    # 429 that names a time or a window: the account's, or one model's. API: "retry-after" and reset headers. The
    # account rests at once, so that further attempts cannot pile up on it: no token is asked.
    "rate_limit": Rule(scope="account", kind="rate", default="rate_limited", free=True, named=True),
    # 429 that names nothing. API: its 429s name a time; without one it may be about this request (its length, a beta).
    "bare_limit": Rule(scope="model", kind="rate", default="rate_limited", free=True, doubt="alike"),
    # No credit, a spend limit without a date, 402: it fails until a person acts. API: no retry-after comes with it.
    "billing": Rule(scope="account", kind="auth", default="auth", free=True),
    # The organization was closed.
    "disabled": Rule(scope="account", kind="auth", default="auth", free=True),
    # The operator's own spend limit at the provider, until the date in its text.
    "spent": Rule(scope="account", kind="rate", default="auth", free=True),
    # What the account's plan does not include: another one's may. Whoever asks for less is served as before.
    "entitlement": Rule(scope="none", kind="rate", default="rate_limited", free=True),
    # 404 of a model, 403 that speaks of the model: this account may not use it, if another one may. API: "Errors".
    "no_model": Rule(scope="model", kind="auth", default="auth", free=True, doubt="contrast"),
    # 401, 403 in the API's own form that speak of the credential: ours, not the client's key. RFC 9110 section 15.5.2;
    # API: "authentication_error".
    "credential": Rule(scope="account", kind="auth", default="auth", free=True),
    # Any other 401, 402 and 403: a firewall before the API that dislikes the prompt, a challenge, a captive portal.
    "refused": Rule(scope="account", kind="outage", default="server_error", strike=True, free=True, doubt="alike"),
    # 529, and overloaded_error in any status or first event: the API as a whole, though some accounts may still be
    # served (both are struck, the account only if another one does better). API: "Errors", 529. SDK: backs off.
    "overloaded": Rule(
        scope="upstream", kind="overload", default="overloaded", strike=True, named=True, waits=True, doubt="alike"
    ),
    # 5xx. API: 500 api_error, 504 timeout_error. It may be one organization's, or this request's. SDK: retried.
    "server_error": Rule(
        scope="account", kind="outage", default="server_error", strike=True, named=True, doubt="alike"
    ),
    # 3xx: a wrong base_url or a captive proxy; never followed, for the credential belongs to its origin (RFC 9110
    # section 15.4 allows, and security forbids).
    "redirect": Rule(scope="account", kind="outage", default="server_error", strike=True, doubt="alike"),
    # 200 with an error, a page or nothing in it: whoever said so, it is no success.
    "unfit": Rule(scope="account", kind="outage", default="server_error", strike=True, doubt="alike"),
    # No connection: nothing was asked, nothing can be billed. The origin's fault. RFC 9110 section 9.2.2.
    "connect": Rule(scope="upstream", kind="outage", default="unreachable", strike=True),
    # A proxy is one account's own way out.
    "proxy": Rule(scope="account", kind="outage", default="unreachable", strike=True),
    # Sent, but no answer: RFC 9110 section 9.2.2 leaves repeating to who knows the request; generating twice is waste,
    # not harm. It may be the path of this account, or a request that takes longer than anybody waits.
    "silent": Rule(scope="account", kind="outage", default="unreachable", strike=True, doubt="alike"),
}
