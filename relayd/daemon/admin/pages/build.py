"""The site and all its pages, made once."""

from __future__ import annotations

from collections.abc import Callable

from relayd.core.access.sessions import Sessions
from relayd.daemon.admin.pages.audit import AuditTrail
from relayd.daemon.admin.pages.audit_page import AuditPage
from relayd.daemon.admin.pages.calls import CallPages
from relayd.daemon.admin.pages.overview import Overview
from relayd.daemon.admin.pages.sign_in import SignInPages
from relayd.daemon.admin.pages.site import Site
from relayd.daemon.admin.status import StatusSources
from relayd.daemon.store.recent_calls import RecentCalls


def build_site(
    sources: StatusSources, recent: RecentCalls, wall: Callable[[], float], rng: Callable[[int], bytes]
) -> Site:
    """All pages.

    Args:
        wall: Unix time, s.
        rng: makes that many random bytes, which nobody can guess.
    """
    sessions, audit = Sessions(rng), AuditTrail()
    sign_in = SignInPages(
        live=sources.live,
        sessions=sessions,
        audit=audit,
        identities=lambda: tuple(sources.credentials.identities),
        rng=rng,
    )
    pages = (
        sign_in,
        Overview(sources=sources),
        CallPages(recent=recent),
        AuditPage(audit=audit),
    )
    return Site(
        live=sources.live, sessions=sessions, routes=[route for page in pages for route in page.routes()], wall=wall
    )
