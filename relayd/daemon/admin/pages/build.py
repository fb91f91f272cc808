"""The site and all its pages, made once."""

from __future__ import annotations

from collections.abc import Callable

from relayd.core.access.sessions import Sessions
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin.pages.account_acts import AccountActs
from relayd.daemon.admin.pages.account_sign_in import AccountSignIn
from relayd.daemon.admin.pages.accounts import AccountPages
from relayd.daemon.admin.pages.audit import AuditTrail
from relayd.daemon.admin.pages.audit_page import AuditPage
from relayd.daemon.admin.pages.calls import CallPages
from relayd.daemon.admin.pages.config_page import ConfigPages
from relayd.daemon.admin.pages.drafts import Waiting
from relayd.daemon.admin.pages.edit_flow import EditFlow
from relayd.daemon.admin.pages.edit_forms import EditForms
from relayd.daemon.admin.pages.edit_tree import EditedTree
from relayd.daemon.admin.pages.explain_page import ExplainPage
from relayd.daemon.admin.pages.keys import KeyPages
from relayd.daemon.admin.pages.overview import Overview
from relayd.daemon.admin.pages.own_page import OwnPage
from relayd.daemon.admin.pages.reports import ReportPage
from relayd.daemon.admin.pages.sign_in import SignInPages
from relayd.daemon.admin.pages.site import Site
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import RequestQueue
from relayd.daemon.store.recent_calls import RecentCalls
from relayd.daemon.store.shared_traffic import SharedTraffic


def build_site(
    *,
    sources: StatusSources,
    queue: RequestQueue,
    history: History,
    recent: RecentCalls,
    traffic: SharedTraffic,
    keeper: OAuthKeeper,
    wall: Callable[[], float],
    rng: Callable[[int], bytes],
    tree: EditedTree,
    public: Callable[[], list[str]],
) -> Site:
    """All pages.

    Args:
        public: addresses at which clients are served here, as http://host:port.
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
    flow = EditFlow(live=sources.live, tree=tree, queue=queue, audit=audit, drafts=Waiting(rng), public=public)
    accounts = AccountPages(sources=sources, recent=recent, keeper=keeper, tree=tree)
    pages = (
        sign_in,
        Overview(sources=sources, traffic=traffic),
        accounts,
        AccountActs(sources=sources, keeper=keeper, pages=accounts, audit=audit),
        KeyPages(sources=sources, recent=recent, traffic=traffic),
        CallPages(live=sources.live, recent=recent),
        ExplainPage(sources=sources),
        ReportPage(sources=sources, traffic=traffic),
        ConfigPages(sources=sources, queue=queue, history=history, audit=audit),
        flow,
        EditForms(flow=flow, rng=rng),
        AccountSignIn(flow=flow, asked=Waiting(rng), rng=rng),
        AuditPage(audit=audit),
        OwnPage(live=sources.live, sessions=sessions, audit=audit, rng=rng),
    )
    return Site(
        live=sources.live,
        sessions=sessions,
        routes=[route for page in pages for route in page.routes()],
        wall=wall,
        beside=sources.reader.beside,
    )
