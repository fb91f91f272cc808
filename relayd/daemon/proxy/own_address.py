"""Own address: under which URL a client knows this relay. It is told, and decides nothing."""

from __future__ import annotations

import re

from relayd.config.snapshot import Snapshot
from relayd.core.access.addresses import inside
from relayd.wire.http import RequestHead

_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")


def own_address(head: RequestHead, peer: str, snapshot: Snapshot) -> str:
    """The origin: by the Host header, and what a trusted proxy says of the scheme. "" where no host is named."""
    proto = head.headers.text(b"x-forwarded-proto").partition(",")[0].strip().lower()
    trusted = not peer or inside(peer, snapshot.relay.server.trusted_proxies)
    scheme = proto if trusted and proto in ("http", "https") else "http"
    host = head.headers.text(b"host")
    return f"{scheme}://{host}" if _HOST.fullmatch(host) else ""
