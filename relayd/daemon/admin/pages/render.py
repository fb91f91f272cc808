"""Rendering: a Page as HTML, JSON or CSV.

Rule: every text is escaped by the engine; a template has no script and no style of its own, which the content security
policy would not let run anyway. Templates come from the package and from nowhere else.

Theory: the engine is made when the first page is asked for, so that a daemon whose pages nobody reads pays nothing.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from relayd import __version__
from relayd.core.quota.limits import dollars
from relayd.daemon.admin.pages.language import LANGUAGES, translator
from relayd.daemon.admin.pages.reasons import teller
from relayd.daemon.admin.pages.table import PageTable
from relayd.daemon.admin.pages.visit import ROOT, Form, Page, Visit
from relayd.wire.call import Reply
from relayd.wire.refusal import Refusal

if TYPE_CHECKING:
    import jinja2

MEDIA: dict[Form, bytes] = {
    "html": b"text/html; charset=utf-8",
    "json": b"application/json",
    "csv": b"text/csv; charset=utf-8; header=present",
}
STATIC = {
    "style.css": b"text/css; charset=utf-8",
    "pages.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}
STATIC_ROOT = f"{ROOT}/static"

# The places that only some may see, in the order of the menu: message, path, who.
MENU = (
    ("overview", ROOT, "viewer"),
    ("accounts", f"{ROOT}/accounts", "viewer"),
    ("keys", f"{ROOT}/keys", "viewer"),
    ("calls", f"{ROOT}/calls", "viewer"),
    ("explain", f"{ROOT}/explain", "viewer"),
    ("reports", f"{ROOT}/reports", "viewer"),
    ("config", f"{ROOT}/config", "viewer"),
    ("edit", f"{ROOT}/edit", "editor"),
    ("audit", f"{ROOT}/audit", "viewer"),
    ("my_key", f"{ROOT}/my-key", "key"),
)


def page_reply(page: Page, visit: Visit) -> Reply:
    """The answer to a visit, in the form that was asked for."""
    if visit.as_form == "html":
        body = html(page, visit)
    elif visit.as_form == "csv":
        body = _table(page, visit).as_csv().encode()
    elif page.document is not None and not (page.tables and visit.query.get("table")):
        body = msgspec.json.encode(page.document) + b"\n"
    else:
        body = msgspec.json.encode(_table(page, visit).as_json()) + b"\n"
    return Reply(status=page.status, headers=[(b"content-type", MEDIA[visit.as_form]), *page.headers], body=body)


def _table(page: Page, visit: Visit) -> PageTable:
    """The table that `?table=` names, else the first. Raises: Refusal 404."""
    tables = {table.name: table for table in page.tables}
    if not tables:
        raise Refusal(status=404, message="this page has no table, and so neither JSON nor CSV", code="form")
    name = visit.query.get("table") or page.tables[0].name
    if name not in tables:
        raise Refusal(status=404, message=f"table: expected one of {', '.join(tables)}", code="form")
    return tables[name]


STYLE_PLACE = b'<link rel="stylesheet">'  # where a file has its style


def html(page: Page, visit: Visit, *, alone: bool = False) -> bytes:
    """A page for people; `alone` for one that no relay serves."""
    say = translator(visit.language)
    values = {
        **page.values,
        "page": page,
        "visit": visit,
        "t": say,
        "told": teller(visit.language, visit.now),
        "title": page.title if page.plain_title else say(page.title),
        "tables": {table.name: table for table in page.tables},
        "menu": _menu(visit),
        "languages": LANGUAGES,
        "alone": alone,
    }
    return engine().get_template(f"{page.template}.html").render(values).encode()


def html_file(page: Page, language: str = "en") -> bytes:
    """A page as one file that needs no relay: with its style inside, without menu, forms and links."""
    body = html(page, Visit(method="GET", path=ROOT, language=language), alone=True)
    found = static_file("style.css")
    assert found is not None
    style = b"<style>\n" + found[1] + b"</style>"
    return body.replace(STYLE_PLACE, style, 1)


def _menu(visit: Visit) -> list[tuple[str, str, bool]]:
    """What this visitor may go to: message, URL, whether it is here."""
    if visit.session is None:
        return []
    needs = {"key": ("key",), "viewer": ("viewer",), "editor": ("viewer", "editor")}[visit.visitor.role]
    shown = [(name, path) for name, path, need in MENU if need in needs]
    here = max((path for _, path in shown if _inside(visit.path, path)), key=len, default="")
    return [(name, path, path == here) for name, path in shown]


def _inside(path: str, place: str) -> bool:
    return path == place or (place != ROOT and path.startswith(f"{place}/"))


@cache
def engine() -> jinja2.Environment:
    """The template engine, with what every template may use."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("relayd.daemon.admin.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        money=_money,
        round_money=_round_money,
        count=_count,
        exact=_exact,
        span=jinja2.pass_context(_span),
        size=_size,
        percent=_percent,
        short=_short,
        q=_quoted,
    )
    made.globals.update(root=ROOT, static=static_url, version=__version__)
    return made


def _money(value: int | None) -> str:
    """Micro-USD as dollars: cents, and two digits more where cents would say little."""
    if value is None:
        return "–"
    exact = dollars(value)
    whole, _, part = exact.partition(".")
    return f"{whole}.{part.ljust(4, '0')[: 2 if abs(value) >= 1_000_000 or value == 0 else 4]}"


def _round_money(value: float) -> str:
    """The same for an axis, whose figures are round."""
    whole, _, part = dollars(round(value)).partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _exact(seconds: float | None) -> str:
    """RFC 3339, UTC."""
    if not seconds:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(context: Mapping[str, Any], seconds: float | None) -> str:
    """A duration in its two largest units, in the language of the page."""
    if seconds is None:
        return "–"
    if seconds < 1:
        units = [("milliseconds", str(round(seconds * 1000)))]
    elif seconds < 60:
        units = [("seconds", f"{seconds:.1f}")]
    else:
        minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
        every = [("days", days), ("hours", hours % 24), ("minutes", minutes % 60), ("seconds", int(seconds) % 60)]
        first = 0 if days else 1 if hours else 2
        units = [(name, str(count)) for name, count in every[first : first + 2]]
    return " ".join(context["t"](f"unit.{name}", count=count) for name, count in units)


def _size(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.0f} %"


def _short(value: float) -> str:
    """A figure for an axis."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _quoted(text: object) -> str:
    """For one segment of a path."""
    return quote(str(text), safe="")


# Files beside the pages


@cache
def static_file(name: str) -> tuple[bytes, bytes] | None:
    """Media type and content; None for an unknown name."""
    if name not in STATIC:
        return None
    return STATIC[name], (resources.files(__package__) / "static" / name).read_bytes()


@cache
def static_url(name: str) -> str:
    """Its URL, which changes with the content: so browsers may keep it for ever."""
    found = static_file(name)
    assert found is not None
    return f"{STATIC_ROOT}/{name}?{hashlib.sha256(found[1]).hexdigest()[:12]}"


def static_reply(name: str) -> Reply:
    """Raises: Refusal 404."""
    found = static_file(name)
    if found is None:
        raise Refusal(status=404, message="unknown file", code="unknown_path")
    keep = (b"cache-control", b"public, max-age=31536000, immutable")
    return Reply(status=200, headers=[(b"content-type", found[0]), keep], body=found[1])


def error_page(refusal: Refusal, details: Mapping[str, Any] | None = None) -> Page:
    """A "no" for people; for programs the same JSON as elsewhere on this listener."""
    headers = list(refusal.headers)
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    error = {"status": refusal.status, "code": refusal.code or refusal.kind, "message": refusal.message}
    return Page(
        template="error",
        title="error.title",
        values={"refusal": refusal, **(details or {})},
        document={"error": error},
        status=refusal.status,
        headers=headers,
    )
