"""Account failures: answers that look like the client's fault and are about the account, known by their words.

Rule: data only; one row for each text, with its source. A text that is not here is judged by status and error type
alone (failover.py). A wrong row costs a further attempt; a missing one keeps a conversation on a broken account.

Theory: the API answers 400 or 404 not only to bad requests, but also where an account is closed, has spent its budget
or lacks an entitlement. Another account may well serve the same call.
"""

from __future__ import annotations

import datetime
import re
from typing import Literal

from relayd.noun import noun

AccountRow = Literal["billing", "disabled", "spent", "entitlement", "credential", "no_model"]


@noun(kw_only=True)
class AccountFailure:
    """One known text.

    Args:
        statuses: those that it has been seen with.
        pattern: of the beginning of the message, in any case.
        row: of the table in blame.py.
    """

    statuses: frozenset[int]
    pattern: re.Pattern[str]
    row: AccountRow
    source: str


def _row(row: AccountRow, statuses: set[int], pattern: str, source: str) -> AccountFailure:
    found = re.compile(pattern, re.IGNORECASE)
    return AccountFailure(statuses=frozenset(statuses), pattern=found, row=row, source=source)


# The first that fits decides. Each stands at the beginning of the message: the API quotes what clients sent further
# on ("Unexpected value(s) `...` for the `anthropic-beta` header"), and nobody may rest an account by being quoted.
ACCOUNT_FAILURES = (
    _row("disabled", {400, 401, 403}, r"this organization has been disabled", "anthropics/claude-code#19028"),
    _row("disabled", {400, 401, 403}, r"your account has been disabled?\b", "router-for-me/CLIProxyAPI#3409"),
    _row("billing", {400, 402, 403, 429}, r"your credit balance is too low", "API support pages, credit balance"),
    _row("spent", {400, 403, 429}, r"you have reached your specified api usage limits", "anthropics/claude-code#38035"),
    _row("entitlement", {400, 403}, r"the long context beta is not yet available", "anthropics/claude-code#27944"),
    _row("entitlement", {400, 403, 429}, r"extra usage is required for", "anthropics/claude-code#42616"),
    _row("entitlement", {400, 403, 429}, r"you're out of extra usage", "griffinmartin/opencode-claude-auth#209"),
    _row("credential", {401, 403}, r"oauth token has (been revoked|expired)", "anthropics/claude-code#9635"),
    _row("credential", {401, 403}, r"oauth authentication is currently not", "anthropics/claude-code#65714"),
    _row("credential", {401, 403}, r"account is no longer a member of the org", "anthropics/claude-code#54863"),
    _row("no_model", {404}, r"model:", 'API docs, "Errors", 404 not_found_error'),
)


def account_failure(status: int, message: str) -> AccountRow | None:
    """The row of blame.py that a message is known to mean; None for one that is not known."""
    for one in ACCOUNT_FAILURES:
        if status in one.statuses and one.pattern.match(message.lstrip()):
            return one.row
    return None


_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)(?:[ T]+(?:at +)?(\d\d):(\d\d))?")


def regained_at(message: str) -> float | None:
    """The date in a message, "regain access on 2026-12-01 at 00:00 UTC", as Unix time, s. None without one."""
    found = _DATE.search(message)
    if found is None:
        return None
    try:
        return datetime.datetime(*(int(part or 0) for part in found.groups()), tzinfo=datetime.UTC).timestamp()  # type: ignore[misc, arg-type]
    except ValueError:  # 2026-13-45
        return None
