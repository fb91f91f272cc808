"""Exports of sub2api: the accounts and proxies of its admin page ("export data").

Theory: its export has accounts and no API keys; those stay behind and are issued anew (`relayd key new`). A row has a
name and no id, so the name tells it again.

Source: sub2api, backend/internal/handler/admin/account_data.go (DataPayload, DataProxy, DataAccount).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from relayd.cli.export import API, BadExport, Export, ExportRow, ImportedAccount, plain, proxy_of
from relayd.config.edit.toml_edit import Value
from relayd.config.secrets.secret import Secret

_TYPES = ("", "sub2api-data", "sub2api-bundle")
_KINDS = {"oauth": "oauth", "setup-token": "oauth", "apikey": "api-key", "upstream": "api-key"}


def read_export(text: str) -> Export:
    """Read an export, as a file or as the API's whole answer. Raises: BadExport."""
    try:
        found = json.loads(text)
        found = found.get("data", found)
        rows, proxies = found["accounts"], found["proxies"]
        if found.get("type", "") not in _TYPES or not isinstance(rows, list) or not isinstance(proxies, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadExport("not an export of sub2api (expected JSON with proxies and accounts)") from None
    known = {plain(row.get("proxy_key")): row for row in proxies if isinstance(row, dict)}
    notes: list[str] = ["keys: sub2api does not export API keys; issue new ones (relayd key new NAME)"]
    claude = [row for row in rows if isinstance(row, dict) and plain(row.get("platform")) == "anthropic"]
    others = Counter(
        plain(row.get("platform")) or "unknown" for row in rows if isinstance(row, dict) and row not in claude
    )
    notes += [f"accounts of {platform}: {count} left out, they are not Claude's" for platform, count in others.items()]
    accounts = [account for row in claude if (account := _account(row, known, notes)) is not None]
    return Export(relay="sub2api", accounts=tuple(accounts), notes=tuple(notes))


def _account(row: ExportRow, proxies: Mapping[str, ExportRow], notes: list[str]) -> ImportedAccount | None:
    name = plain(row.get("name"))
    where = f"account {name}"
    kind = _KINDS.get(plain(row.get("type")), "")
    secrets = row.get("credentials")
    credential = _credential(kind, secrets if isinstance(secrets, dict) else {})
    if credential is None:
        notes.append(f"{where}: left out, it has no credential of a known type ({plain(row.get('type')) or 'none'})")
        return None
    base = plain(secrets.get("base_url")) if isinstance(secrets, dict) and kind == "api-key" else ""
    fields: dict[str, Value] = {"kind": kind, "name": name, "enabled": False, "base_url": base or API}
    for theirs, ours in (("priority", "priority"), ("concurrency", "max_concurrency")):
        value = row.get(theirs)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            fields[ours] = value
    if proxy := proxies.get(plain(row.get("proxy_key"))):
        if url := proxy_of(proxy, "protocol", where, notes):
            fields["proxy"] = url
    elif row.get("proxy_key"):
        notes.append(f"{where}: its proxy is not in the export; set `proxy` by hand")
    return ImportedAccount(name=name, origin=name, fields=fields, credential=credential)


def _credential(kind: str, secrets: dict[str, Any]) -> Secret | None:
    if kind == "api-key":
        return Secret(plain(secrets["api_key"])) if secrets.get("api_key") else None
    if kind != "oauth" or not secrets.get("access_token"):
        return None
    tokens: dict[str, Any] = {"access_token": plain(secrets["access_token"])}
    if refresh := plain(secrets.get("refresh_token")):
        tokens["refresh_token"] = refresh
    expires = plain(secrets.get("expires_at"))
    if expires.isdigit():
        tokens["expires_at"] = int(expires)
    return Secret(json.dumps(tokens, separators=(",", ":")))
