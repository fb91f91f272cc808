"""Loopback: a listener on 127.0.0.1 for the answer to a sign-in in the browser. Source: RFC 8252 section 7.3.

Rule: one answer, to one path; nothing of a request is shown or logged, because its line holds the code.
"""

from __future__ import annotations

import http.server
import time
from typing import Any
from urllib.parse import urlsplit

from relayd.config.secrets.secret import Secret
from relayd.daemon.accounts.code_grant import LoginError, SignIn, read_answer

_PAGE = (
    b"<!doctype html><meta charset=utf-8><title>relayd</title><p>%s You can close this page and return to the terminal."
)


class Loopback:
    """A listener on 127.0.0.1 for one answer."""

    def __init__(self, redirect_uri: str) -> None:
        parts = urlsplit(redirect_uri or "http://127.0.0.1/callback")
        self.path = parts.path or "/"
        self._server = http.server.HTTPServer(("127.0.0.1", parts.port or 0), _Redirect)
        self.redirect_uri = f"http://{parts.hostname}:{self._server.server_port}{self.path}"

    def wait(self, ask: SignIn, seconds: float) -> Secret:
        """The code. Requests that are not the answer (a favicon, another page's guess) are turned away.

        Raises: LoginError.
        """
        deadline = time.monotonic() + seconds
        self._server.ask, self._server.path, self._server.outcome = ask, self.path, None  # type: ignore[attr-defined]
        while (left := deadline - time.monotonic()) > 0:
            self._server.timeout = left
            self._server.handle_request()
            outcome: Secret | LoginError | None = self._server.outcome  # type: ignore[attr-defined]
            if isinstance(outcome, LoginError):
                raise outcome
            if outcome is not None:
                return outcome
        raise LoginError(f"no answer from the browser within {seconds:g} s (--paste takes the code by hand)")

    def close(self) -> None:
        self._server.server_close()


class _Redirect(http.server.BaseHTTPRequestHandler):
    """Takes the answer of the provider's redirect."""

    timeout = 10  # s for a connection that says nothing

    def do_GET(self) -> None:
        server: Any = self.server
        if urlsplit(self.path).path != server.path:
            self._say(404, b"Nothing is here.")
            return
        try:
            server.outcome = read_answer(self.path, server.ask)
            self._say(200, b"Signed in.")
        except LoginError as error:
            # A wrong state may be another page's guess: the sign-in goes on. A refusal by the provider ends it.
            server.outcome = error if "refused" in str(error) else None
            self._say(400, b"This did not work.")

    def _say(self, status: int, text: bytes) -> None:
        body = _PAGE % text
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.send_header("referrer-policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Nothing: the request line holds the code."""
