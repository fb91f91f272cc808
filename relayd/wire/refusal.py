"""Refusals: relayd's own errors, before a dialect has given them its form.

An upstream's error is never a Refusal: it is passed on as it came.
"""

from __future__ import annotations

from typing import Self

from relayd.noun import noun

# The error types of the Claude API by status. Source: API docs, "Errors"; reference SDK exception classes.
KIND_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    417: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    431: "request_too_large",
    500: "api_error",
    501: "invalid_request_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# 408 is what we say of a slow client; an upstream's timeout_error is a 504.
_STATUS_BY_KIND = {kind: status for status, kind in reversed(KIND_BY_STATUS.items())} | {"timeout_error": 504}


def status_of_kind(kind: str) -> int:
    """The status that goes with an error type of the Claude API; 500 for one that is not known."""
    return _STATUS_BY_KIND.get(kind, 500)


@noun(kw_only=True)
class Refusal(Exception):
    """Why a call is not served.

    Args:
        status: HTTP status.
        message: for the client's eyes; says what and, if it helps, what to do; never a secret.
        retry_after: whole seconds until trying again makes sense.
        should_retry: sent as `x-should-retry`; None says nothing. Claude Code retries a 401 like a 5xx without it.
        param: the body field at fault, for the OpenAI dialect.
        code: a short machine word, for the OpenAI dialect and the receipt.
        headers: further response headers, such as `allow`.
        error_code: one of the Claude API's own, where its clients go on by it; "" says none.
    """

    status: int
    message: str
    retry_after: int | None = None
    should_retry: bool | None = None
    param: str | None = None
    code: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    error_code: str = ""

    @property
    def kind(self) -> str:
        """The Claude API's error type for the status."""
        return KIND_BY_STATUS.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")

    def let_go(self) -> Self:
        """Itself, without the frames that it came through, once it has been caught for good.

        They hold the call, and whoever raised it may hold it in a variable: a cycle. One that is a constant would keep
        the frames of every call that it has ended.
        """
        return self.with_traceback(None)

    def __str__(self) -> str:
        return f"{self.status} {self.message}"
