"""Visits, pages and routes: the nouns between the admin listener and each page.

Rule: nothing here does anything. A handler gets a Visit, whose visitor has been let in already, and answers a Page or,
where it leads elsewhere, a Reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote, urlencode

import attrs

from relayd.core.access.sessions import Session, Visitor
from relayd.daemon.admin.pages.table import PageTable
from relayd.noun import noun
from relayd.wire.call import Reply
from relayd.wire.http import HeaderPairs

ROOT = "/web"
FIRST = f"{ROOT}/overview"  # the page at ROOT, where a name needs a suffix

Form = Literal["html", "json", "csv"]
# Who may see a page: whoever can sign in, key holders (and admins), admins, editors.
Need = Literal["nobody", "key", "viewer", "editor"]


@noun(kw_only=True)
class Visit:
    """One request to the pages.

    Args:
        path: without the suffix that asks for another form.
        query: fields of the URL; of one given twice the last.
        captured: what stood in the place of a route's {names}.
        form: fields of a POST.
        session: None on pages for nobody in particular.
        address: the client's, as `client_address` tells it.
        secure: the browser came over TLS.
        now: Unix time, s.
    """

    method: str
    path: str
    as_form: Form = "html"
    query: Mapping[str, str] = attrs.field(factory=dict)
    captured: Mapping[str, str] = attrs.field(factory=dict)
    form: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    cookies: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    session: Session | None = None
    language: str = "en"
    address: str = ""
    secure: bool = False
    now: float = 0.0

    @property
    def visitor(self) -> Visitor:
        """Who is signed in. Only for pages that need somebody."""
        assert self.session is not None
        return self.session.visitor

    def form_url(self, form: Form, table: str = "") -> str:
        """This page, filters and all, in another form: the whole of it, or one of its tables."""
        query = {**self.query, "table": table} if table else self.query
        fields = f"?{urlencode(query)}" if query else ""
        return f"{quote(FIRST if self.path == ROOT else self.path)}.{form}{fields}"

    def url(self, **changes: str | None) -> str:
        """This page in this form, with other fields in its URL; None takes one out."""
        fields = {name: value for name, value in {**self.query, **changes}.items() if value}
        if self.as_form == "html":
            return quote(self.path) + (f"?{urlencode(fields)}" if fields else "")
        return attrs.evolve(self, query=fields).form_url(self.as_form)


@noun(kw_only=True)
class Page:
    """What a handler answers.

    Args:
        template: name of the file, without .html.
        title: key of the message, or with `plain_title` the text itself.
        values: for the template.
        tables: what the page shows in rows, each by its name; in JSON and CSV `?table=` chooses
            one, and without it the first is the page.
        document: the page as JSON where that is more than its first table.
    """

    template: str
    title: str
    plain_title: bool = False
    values: Mapping[str, Any] = attrs.field(factory=dict)
    tables: tuple[PageTable, ...] = ()
    document: Mapping[str, Any] | None = None
    status: int = 200
    headers: HeaderPairs = attrs.field(factory=list)


Handler = Callable[[Visit], Awaitable[Page | Reply]]


@noun(kw_only=True)
class PageRoute:
    """One page: a method and a path, in which {name} stands for one segment."""

    method: Literal["GET", "POST"]
    pattern: str
    need: Need
    handler: Handler

    def match(self, path: str) -> dict[str, str] | None:
        """What {names} stand for; None when the path is another."""
        ours, theirs = self.pattern.split("/"), path.split("/")
        if len(ours) != len(theirs):
            return None
        found: dict[str, str] = {}
        for our, their in zip(ours, theirs, strict=True):
            if our.startswith("{") and their:
                found[our[1:-1]] = their
            elif our != their:
                return None
        return found


def part_of(table: PageTable, visit: Visit, most: int) -> PageTable:
    """The rows from `?start=` on, as many as a page for people has room for; programs get all."""
    if visit.as_form != "html":
        return table
    first = start_of(visit)
    after = visit.url(start=str(first + most)) if len(table.rows) > first + most else ""
    return attrs.evolve(table, rows=table.rows[first : first + most], after=after)


def start_of(visit: Visit) -> int:
    """Which row a page for people begins with."""
    start = visit.query.get("start", "")
    return int(start) if start.isdecimal() and len(start) < 7 else 0


def see_other(where: str, headers: HeaderPairs | None = None) -> Reply:
    """Go and look there. Source: RFC 9110 section 15.4.4."""
    return Reply(status=303, headers=[(b"location", where.encode("ascii", "replace")), *(headers or [])], body=b"")


def own_path(text: str) -> str:
    """A path of the pages to go on to; that of the first page for anything that leads elsewhere."""
    inside = text == ROOT or text.startswith((f"{ROOT}/", f"{ROOT}?"))
    return text if inside and text.isascii() and text.isprintable() and "\\" not in text else ROOT
