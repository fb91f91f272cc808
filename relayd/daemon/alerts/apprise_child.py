"""The process that runs Apprise: one notice from standard input, one word to standard output.

Rule: it connects to global addresses alone, unless told otherwise, whatever a plug-in or a redirect wants, and starts
no program. Python's audit events are raised before the system is asked, and a hook cannot be taken away again; code of
C that asks the system by itself would not be seen.
Source: PEP 578, and the Python documentation's "Audit events table".
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from relayd.core.alerts.address_rule import is_global

_PROGRAMS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_LOCAL = ("dbus", "gnome", "kde", "qt", "glib", "macosx", "windows", "syslog", "file")  # schemas of this machine


class Forbidden(OSError):
    """A plug-in wanted what an alert may not."""


def main() -> str:
    """Deliver, and say how it went, in a word of `apprise_process.REASONS`."""
    asked = json.loads(sys.stdin.buffer.read())
    if str(asked["url"]).partition(":")[0].lower().rstrip("s") in _LOCAL:
        return "local"
    import apprise  # the only place that needs it, and it takes half a second

    asset = apprise.AppriseAsset(http_redirects=False, secure_logging=True, async_mode=False)
    place = apprise.Apprise.instantiate(asked["url"], asset=asset, suppress_exceptions=True)
    if not isinstance(place, apprise.NotifyBase):
        return "url"
    seen: list[str] = []
    sys.addaudithook(lambda event, told: _permit(event, told, bool(asked["private"]), seen))
    if asked["bundle"]:
        os.environ["REQUESTS_CA_BUNDLE"] = asked["bundle"]  # as relayd's own connections trust it
    try:
        done = place.notify(body=asked["body"], title=asked["title"], notify_type=asked["kind"], body_format="text")
    except Exception:  # whatever a plug-in raises, its text may hold the URL
        done = False
    return "ok" if done else seen[0] if seen else "refused"


def _permit(event: str, told: tuple[Any, ...], private: bool, seen: list[str]) -> None:
    """Raises: Forbidden."""
    if event in _PROGRAMS:
        seen.append("local")
        raise Forbidden(f"{event}: an alert starts no program")
    if event in _SENDS:
        where = told[-1] if event != "socket.connect" else told[1]
        if isinstance(where, tuple):
            if not private and not is_global(str(where[0])):
                seen.append("private")
                raise Forbidden("an alert goes to global addresses only")
        elif where is not None:  # a socket of this machine
            seen.append("local")
            raise Forbidden("an alert goes to no socket of this machine")


if __name__ == "__main__":
    sys.stdout.write(f"{main()}\n")
