"""Apprise: whatever it knows, told by a process of its own.

Rule: Apprise blocks, brings a hundred plug-ins and makes its own connections. So it runs in a child that lives for one
notice: it gets the URL on standard input and no secret in its environment or arguments, it is killed when it takes too
long, and what it prints is not read but for one word. What keeps it to the address rule is in apprise_child.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import trio

from relayd.config.environment import NO_APPRISE, has_apprise
from relayd.config.secrets.secret import Secret
from relayd.core.alerts.book import Notice
from relayd.core.alerts.notice import text, title, worst
from relayd.daemon.alerts.destination import PRIVATE

PATIENCE = 15.0  # s; less than the life of the lease of whoever tells
_PASSED_ON = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ")
_KINDS = {"info": "info", "warning": "warning", "critical": "failure"}

REASONS = {
    "ok": "",
    "url": "Apprise cannot read the URL",
    "private": PRIVATE,
    "local": "the URL is for something of this machine, and alerts go elsewhere",
    "refused": "Apprise could not deliver it",
}


async def deliver_by_apprise(notice: Notice, url: Secret, realm: str, *, private: bool) -> str:
    """Deliver a notice. Returns why it was not; "" when it was."""
    if not has_apprise():
        return NO_APPRISE
    asked = {
        "url": url.reveal(),
        "title": title(notice, realm),
        "body": text(notice),
        "kind": _KINDS[worst(notice.items)],
        "private": private,
        "bundle": os.environ.get("SSL_CERT_FILE", ""),
    }
    try:
        with trio.fail_after(PATIENCE):
            ran = await trio.run_process(
                # -P: what lies in the working directory, maybe the tree, is not imported.
                [sys.executable, "-P", "-m", "relayd.daemon.alerts.apprise_child"],
                stdin=msgspec.json.encode(asked),
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            )
    except trio.TooSlowError:
        return f"Apprise has not delivered it within {PATIENCE:g} s"
    except OSError as error:
        return f"the process of Apprise cannot be started: {(error.strerror or str(error)).lower()}"
    word = ran.stdout.strip().rpartition(b"\n")[2].decode("ascii", "replace")
    return REASONS.get(word, "the process of Apprise has failed")
