"""The forms of edits, and from a form that was sent to the edit that is wanted.

Rule: a form shows the files of the tree, which may be ahead of what runs, and no secret of theirs. Whatever is sent
goes through edit_flow.py.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio

from relayd.config.edit.hidden import Hider
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.tree_edit import TreeEdit
from relayd.config.edit.wanted import COSTS, COUNTS, Fields, id_of
from relayd.config.edit.wanted_accounts import (
    SETTINGS,
    change_account,
    delete_account,
    new_account,
    seal_account,
    switch_account,
)
from relayd.config.edit.wanted_keys import (
    LISTS,
    change_key,
    delete_key,
    deny,
    limit_owner,
    new_key,
    rotate_key,
    shown_time,
    switch_key,
)
from relayd.config.edit.wanted_relay import delete_client, set_aliases, set_client, set_file
from relayd.config.model.document import classify
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.api_keys import mint
from relayd.config.secrets.sealed_fields import objects, parsed, relay_table
from relayd.config.secrets.secret import Secret
from relayd.daemon.admin.pages.choices import choices_of
from relayd.daemon.admin.pages.edit_flow import EditFlow, said
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.wire.refusal import Refusal

# What is wanted, by the field `do`. Those that mint a key are in `EditForms.preview`.
ACTS: Mapping[str, Callable[[Fields, datetime.datetime], TreeEdit]] = {
    "key.change": lambda form, now: change_key(id_of(form), form, now),
    "key.enable": lambda form, now: switch_key(id_of(form), True),
    "key.disable": lambda form, now: switch_key(id_of(form), False),
    "key.delete": lambda form, now: delete_key(id_of(form)),
    "account.new": lambda form, now: new_account(form, _credential(form)),
    "account.change": lambda form, now: change_account(id_of(form), form, _credential(form)),
    "account.seal": lambda form, now: seal_account(id_of(form), _credential(form)),
    "account.enable": lambda form, now: switch_account(id_of(form), True),
    "account.disable": lambda form, now: switch_account(id_of(form), False),
    "account.delete": lambda form, now: delete_account(id_of(form)),
    "deny.add": lambda form, now: deny(form.get("field", ""), form.get("value", "").strip()),
    "deny.remove": lambda form, now: deny(form.get("field", ""), form.get("value", "").strip(), undo=True),
    "owner.limits": lambda form, now: limit_owner(form.get("owner", ""), form),
    "models.aliases": lambda form, now: set_aliases(form),
    "client.set": lambda form, now: set_client(form),
    "client.delete": lambda form, now: delete_client(id_of(form)),
    "file.edit": lambda form, now: set_file(form.get("path", ""), form.get("text", ""), form.get("shown", "")),
}


@attrs.define(eq=False, kw_only=True)
class EditForms:
    """What editors can change.

    Args:
        rng: makes that many random bytes, of which keys are made.
    """

    flow: EditFlow
    rng: Callable[[int], bytes] = attrs.field(repr=False)

    def routes(self) -> tuple[PageRoute, ...]:
        shown = {
            "": self.show_all,
            "/new-key": self.show_new_key,
            "/new-account": self.show_new_account,
            "/keys/{key}": self.show_key,
            "/accounts/{account}": self.show_account,
            "/owner": self.show_owner,
            "/relay": self.show_relay,
            "/file": self.show_file,
        }
        return (
            *(
                PageRoute(method="GET", pattern=f"{ROOT}/edit{path}", need="editor", handler=handler)
                for path, handler in shown.items()
            ),
            PageRoute(method="POST", pattern=f"{ROOT}/edit/preview", need="editor", handler=self.preview),
        )

    async def preview(self, visit: Visit) -> Page:
        """What the edit of a form would come to. Raises: Refusal 400, 409."""
        do, now = visit.form.get("do", ""), datetime.datetime.fromtimestamp(int(visit.now), datetime.UTC)
        try:
            if do in ("key.new", "key.rotate"):
                minted = mint(self.rng)
                rotated = do == "key.rotate"
                edit = (
                    rotate_key(id_of(visit.form), visit.form.get("grace", "").strip(), minted, now)
                    if rotated
                    else new_key(visit.form, minted, now)
                )
                return await self.flow.show(visit, edit, Secret(minted))
            if do not in ACTS:
                raise EditError("the form does not say what is to be done")
            return await self.flow.show(visit, ACTS[do](visit.form, now))
        except (EditError, LookupError) as error:
            raise Refusal(status=400, message=said(error), code="edit") from None

    async def show_all(self, visit: Visit) -> Page:
        """Everything that can be changed, and where."""
        files = await self._files()
        owners = sorted(
            {owner for _, _, table in objects(files, "keys.d") if isinstance(owner := table.get("owner"), str)}
        )
        values = {
            "files": [path for path in sorted(files) if path.isprintable()],
            "owners": [one for one in owners if one],
            "pulled": self.flow.tree.pulled,
        }
        return Page(template="edit", title="menu.edit", values=values)

    async def show_new_key(self, visit: Visit) -> Page:
        """An empty form."""
        return self._key_form("", {}, "edit.new_key")

    async def show_key(self, visit: Visit) -> Page:
        """A key's settings. Raises: Refusal 404."""
        table = await self._object("keys.d", visit.captured["key"])
        return self._key_form(visit.captured["key"], table, "edit.key")

    async def show_new_account(self, visit: Visit) -> Page:
        """An empty form."""
        return self._account_form("", {}, "edit.new_account")

    async def show_account(self, visit: Visit) -> Page:
        """An account's settings. Raises: Refusal 404."""
        table = await self._object("accounts.d", visit.captured["account"])
        return self._account_form(visit.captured["account"], table, "edit.account")

    async def show_owner(self, visit: Visit) -> Page:
        """Limits for every key of an owner."""
        owner = visit.query.get("owner", "")
        keys = [
            name for _, name, table in objects(await self._files(), "keys.d") if owner and table.get("owner") == owner
        ]
        values = {"owner": owner, "keys": keys, **_limit_fields({})}
        return Page(template="edit_owner", title="edit.owner", values=values)

    async def show_relay(self, visit: Visit) -> Page:
        """Aliases, client rules and deny.toml."""
        files = await self._files()
        relay = relay_table(files)
        models, clients = _table(relay, "models"), _table(relay, "clients")
        values = {
            "aliases": "\n".join(f"{alias} = {model}" for alias, model in models.items()),
            "clients": [_client(name, rule) for name, rule in clients.items() if isinstance(rule, dict)],
            "denied": [
                (field, value)
                for field, listed in parsed(files.get("deny.toml", b"")).items()
                for value in (listed if isinstance(listed, list) else [])
            ],
        }
        return Page(template="edit_relay", title="edit.relay", values=values)

    async def show_file(self, visit: Visit) -> Page:
        """The text of one file, with its secrets hidden. Raises: Refusal 404."""
        files, path = await self._files(), visit.query.get("path", "")
        if path not in files or classify(path) is None:
            raise Refusal(status=404, message="there is no such file in the tree", code="unknown_file")
        content = files[path]
        values = {
            "path": path,
            "text": Hider().hide(path, content.decode("utf-8", "replace")),
            "digest": hashlib.sha256(content).hexdigest(),
        }
        return Page(template="edit_file", title=path, plain_title=True, values=values)

    async def _files(self) -> dict[str, bytes]:
        return await trio.to_thread.run_sync(self.flow.tree.files)

    async def _object(self, folder: str, name: str) -> dict[str, Any]:
        for _, found, table in objects(await self._files(), folder):
            if found == name:
                return table
        raise Refusal(status=404, message="the tree has no such file", code="unknown_file")

    def _key_form(self, name: str, table: dict[str, Any], title: str) -> Page:
        values = {
            "name": name,
            "table": {one: table.get(one, "") for one in ("name", "owner", "max_tokens")},
            "lists": {one: _joined(table.get(one)) for one in LISTS},
            "expires": shown_time(table.get("expires")),
            "enabled": table.get("enabled", True) is not False,
            "choices": choices_of(self.flow.live.snapshot),
            **_limit_fields(_table(table, "limits")),
        }
        return Page(template="edit_key", title=title, values=values)

    def _account_form(self, name: str, table: dict[str, Any], title: str) -> Page:
        kind = str(table.get("kind", "api-key"))
        own = ACCOUNT_KINDS.get(kind)
        values = {
            "name": name,
            "kind": kind,
            "kinds": list(ACCOUNT_KINDS),
            "settings": {one: _joined(table.get(one)) for one in SETTINGS},
            "pace": _table(table, "pace").get("requests_per_minute", ""),
            "enabled": table.get("enabled", True) is not False,
            "credential": not name or (own is not None and own.has_credential),
            "choices": choices_of(self.flow.live.snapshot),
            "signs_in": bool(name) and own is not None and own.refreshes,
        }
        return Page(template="edit_account", title=title, values=values)


def _credential(form: Fields) -> Secret:
    return Secret(form.get("credential", "").strip())


def _limit_fields(limits: dict[str, Any]) -> dict[str, Any]:
    return {"limits": {one: limits.get(one, "") for one in (*COUNTS, *COSTS)}}


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _client(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    headers = "\n".join(f"{one}: {pattern}" for one, pattern in _table(rule, "headers").items())
    return {"id": name, "name": rule.get("name", ""), "user_agent": rule.get("user_agent", ""), "headers": headers}
