"""Per-file rules: what one file says, judged by itself, after its types are known to be right.

Rule: a function for each noun, from the noun to findings. What needs a second file is in cross_file.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from relayd.config.model.structure import Finding, dotted
from relayd.config.model.values import Bad, name, quote
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, Alert, ApiKey, ClientRule, KeyPath, Limits, Relay

SCHEMA = 1
MAX_RECIPIENTS = 16


def relay_findings(relay: Relay) -> Iterator[Finding]:
    """relay.toml."""
    if relay.schema != SCHEMA:
        hint = "a newer relayd is needed" if relay.schema > SCHEMA else ""
        message = f"schema: expected {SCHEMA}, not {quote(relay.schema)}"
        yield Finding(path=("schema",), code="E-SCHEMA", message=message, hint=hint)
    yield from _base_url_findings(("upstream", "base_url"), relay.upstream.base_url)
    yield from _listen_findings(relay)
    yield from _limits_findings(relay.limits)
    yield from _alias_findings(relay.models)
    for client, rule in relay.clients.items():
        yield from _client_findings(client, rule)
    for alert, target in relay.alerts.items():
        yield from _alert_findings(alert, target)
    yield from _repeated("E-DUP-NAME", ("admin", "users"), [user.name for user in relay.admin.users])
    yield from _repeated("E-DUP-NAME", ("admin", "tokens"), [token.name for token in relay.admin.tokens])
    yield from _recipient_findings(relay)
    for number, entry in enumerate(relay.check.allow):
        if not entry.why.strip():
            path = ("check", "allow", number, "why")
            yield Finding(path=path, code="E-CHOICE", message=f"{dotted(path)}: say why the warning is all right")


def account_findings(account: Account) -> Iterator[Finding]:
    """A file of accounts.d."""
    yield from _credential_findings(account)
    yield from _base_url_findings(("base_url",), account.base_url or "")
    if not account.groups:
        yield _nothing_allowed("groups", "no key may use this account")
    for header, value in account.headers.items():
        yield from _header_findings(("headers", header), value)
    for asked, sent in account.model_map.items():
        yield from _model_findings(("model_map", asked), asked, sent)
    yield from _reserved_file_findings(account.credential.file)
    if "@" in account.proxy and urlsplit(account.proxy).password is not None:
        message = "proxy: the URL holds a password in clear"
        yield Finding(path=("proxy",), code="W-PROXY-PASSWORD", message=message, secret=True)


def key_findings(key: ApiKey) -> Iterator[Finding]:
    """A file of keys.d."""
    if not 1 <= len(key.hashes) <= 2:
        message = f"hashes: expected one hash, or two while rotating, not {len(key.hashes)}"
        yield Finding(path=("hashes",), code="E-HASHES", message=message)
    yield from _repeated("E-DUP-HASH", ("hashes",), [entry.sha256 for entry in key.hashes], "sha256")
    if not key.groups:
        yield _nothing_allowed("groups", "no account may serve this key")
    if not key.endpoints:
        yield _nothing_allowed("endpoints", "this key may call nothing")
    if key.created and key.expires and key.expires <= key.created:
        message = f"expires: {key.expires.isoformat()} is not after `created`"
        yield Finding(path=("expires",), code="W-EXPIRES-EARLY", message=message)
    yield from _limits_findings(key.limits)


def _listen_findings(relay: Relay) -> Iterator[Finding]:
    if not relay.server.listen:
        yield Finding(
            path=("server", "listen"), code="E-ADDRESS", message="server.listen: expected at least one address"
        )
    seen: set[str] = set()
    places = [(("server", "listen", number), value) for number, value in enumerate(relay.server.listen)]
    for path, value in [*places, (("admin", "listen"), relay.admin.listen)]:
        if value and value in seen:
            message = f"{dotted(path)}: {quote(value)} is already the address of another listener"
            yield Finding(path=path, code="E-DUP-ADDRESS", message=message)
        if not value.endswith(":0"):  # port 0 is a new port each time
            seen.add(value)


_API_PATH = re.compile(r"(?:/v1|(?:/v1)?/messages(?:/count_tokens)?)/?\Z")


def _base_url_findings(path: KeyPath, url: str) -> Iterator[Finding]:
    """A base URL brings its prefix along, and not what every call puts behind it."""
    found = _API_PATH.search(urlsplit(url).path)
    if found is not None:
        right = url[: len(url) - len(found[0])]
        message = f"{dotted(path)}: relayd puts /v1/messages behind it; {quote(url)} has {quote(found[0])} already"
        yield Finding(path=path, code="E-BASE-URL", message=message, hint=f'write "{right}"')


def _limits_findings(limits: Limits) -> Iterator[Finding]:
    for number, window in enumerate(limits.windows):
        if not (window.requests or window.tokens or window.cost):
            path: KeyPath = ("limits", "windows", number)
            message = f"{dotted(path)}: expected requests, tokens or cost above 0"
            yield Finding(path=path, code="E-WINDOW", message=message)


_MODEL = re.compile(r"[!-~]{1,200}")


_SHOWN_STEPS = 8  # of a chain of aliases


def _alias_findings(models: Mapping[str, str]) -> Iterator[Finding]:
    ends = alias_ends(models)
    for alias, target in models.items():
        path: KeyPath = ("models", alias)
        yield from _model_findings(path, alias, target)
        if ends[alias] is None:
            message = f"{dotted(path)}: the alias leads back to itself: {_way(models, alias)}"
            yield Finding(path=path, code="E-ALIAS", message=message)


def alias_ends(models: Mapping[str, str]) -> dict[str, str | None]:
    """The model at the end of each chain of aliases; None when there is no end. Each alias is looked at once."""
    ends: dict[str, str | None] = {}
    for alias in models:
        way: dict[str, None] = {}
        step = alias
        while step in models and step not in ends and step not in way:
            way[step] = None
            step = models[step]
        end = None if step in way else ends.get(step, step)
        ends.update(dict.fromkeys(way, end))
    return ends


def _way(models: Mapping[str, str], alias: str) -> str:
    """The chain from `alias` to the first name that came before, or its first steps."""
    steps = [alias]
    while steps[-1] not in steps[:-1] and len(steps) <= _SHOWN_STEPS:
        steps.append(models[steps[-1]])
    shown = " -> ".join(map(quote, steps))
    return shown if steps[-1] in steps[:-1] else f"{shown} -> ..."


def _model_findings(path: KeyPath, asked: str, sent: str) -> Iterator[Finding]:
    for model, at in ((asked, "key"), (sent, "value")):
        if not _MODEL.fullmatch(model) or "*" in model or "?" in model:
            message = f"{dotted(path)}: expected the name of one model, not {quote(model)}"
            yield Finding(path=path, code="E-ALIAS", message=message, at="key" if at == "key" else "value")


def _client_findings(client: str, rule: ClientRule) -> Iterator[Finding]:
    path: KeyPath = ("clients", client)
    yield from _name_findings(path, client)
    if rule.user_agent is None and not rule.headers:
        yield Finding(path=path, code="E-CLIENT", message=f"{dotted(path)}: expected user_agent or headers", at="key")
    for header in rule.headers:
        if not _TOKEN.fullmatch(header):
            message = f"{dotted((*path, 'headers'))}: {quote(header)} is not a header name"
            yield Finding(path=(*path, "headers", header), code="E-HEADER", message=message, at="key")


def _name_findings(path: KeyPath, text: str) -> Iterator[Finding]:
    try:
        name(text)
    except Bad as bad:
        yield Finding(path=path, code=bad.code, message=f"{dotted(path)}: {bad.message()}", at="key")


def _alert_findings(alert: str, target: Alert) -> Iterator[Finding]:
    path: KeyPath = ("alerts", alert)
    yield from _name_findings(path, alert)
    if bool(target.url) == bool(target.url_file):
        message = f"{dotted(path)}: expected either url (a sealed value) or url_file"
        yield Finding(path=path, code="E-ALERT", message=message, at="key")
    signed = bool(target.signing_key) + bool(target.signing_key_file)
    if signed > 1 or (signed and target.format != "json"):
        wrong = "only notices of format json are signed" if signed == 1 else "expected signing_key or signing_key_file"
        yield Finding(path=path, code="E-ALERT", message=f"{dotted(path)}: {wrong}", at="key")
    elif target.format == "json" and not signed:
        message = f"{dotted(path)}: its notices are not signed"
        yield Finding(
            path=path, code="W-ALERT-UNSIGNED", message=message, hint="relayd secret seal --alert-key", at="key"
        )


def _repeated(code: str, path: KeyPath, values: Iterable[str], field: str = "name") -> Iterator[Finding]:
    """A finding for each value that an earlier element of the array has."""
    seen: set[str] = set()
    for number, value in enumerate(values):
        if value in seen:
            place = (*path, number, field)
            yield Finding(path=place, code=code, message=f"{dotted(place)}: {quote(value)} is already used")
        seen.add(value)


def _recipient_findings(relay: Relay) -> Iterator[Finding]:
    recipients = relay.secrets.recipients
    path: KeyPath = ("secrets", "recipients")
    if len(recipients) > MAX_RECIPIENTS:
        message = f"secrets.recipients: {len(recipients)} recipients, more than {MAX_RECIPIENTS}"
        yield Finding(path=path, code="E-RECIPIENT", message=message)
    yield from _repeated("E-RECIPIENT", path, [recipient.name for recipient in recipients])
    yield from _repeated("E-RECIPIENT", path, [recipient.public for recipient in recipients], "public")


def _credential_findings(account: Account) -> Iterator[Finding]:
    """Exactly one of sealed and file, and none for the simulator.

    Only the grammar of a sealed value has been looked at (values.sealed). Whether it was sealed for this place is for
    seal.inspect, which needs the realm and the recipients: see sealed_values.py.
    """
    given = bool(account.credential.sealed) + bool(account.credential.file)
    if not ACCOUNT_KINDS[account.kind].has_credential:
        if given:
            message = f"credential: an account of kind {quote(account.kind)} must not have one"
            yield Finding(path=("credential",), code="E-CREDENTIAL", message=message, at="key")
    elif given != 1:
        message = f"credential: expected sealed or file, found {'neither' if given == 0 else 'both'}"
        hint = "seal the secret, or name a file of the node" if given == 0 else ""
        yield Finding(path=("credential",), code="E-CREDENTIAL", message=message, hint=hint, at="key")


def _reserved_file_findings(file: str) -> Iterator[Finding]:
    """Files of these names are the node's own secrets, whatever directory they lie in."""
    base = file.rpartition("/")[2]
    if base == "identity" or base.endswith(".identity") or base.startswith("state-"):
        message = f"credential.file: {quote(file)} is the name of an identity or of the state store's password"
        hint = "neither is ever sent to an upstream; rename the file"
        yield Finding(path=("credential", "file"), code="E-CREDENTIAL-FILE", message=message, hint=hint)


def _nothing_allowed(field: str, effect: str) -> Finding:
    return Finding(path=(field,), code="W-NOTHING-ALLOWED", message=f"{field}: the list is empty, so {effect}")


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"[!-~](?:[ \t!-~]{0,4000}[!-~])?")
_CREDENTIAL_HEADERS = frozenset(kind.header.decode() for kind in ACCOUNT_KINDS.values() if kind.has_credential)
_OURS = _CREDENTIAL_HEADERS | frozenset(
    {
        "proxy-authorization",
        "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "te", "trailer", "expect",
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "upgrade", "http2-settings",
        "accept-encoding", "forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip",
    }
)  # fmt: skip
_CLIENTS = frozenset(
    {"user-agent", "anthropic-beta", "anthropic-dangerous-direct-browser-access", "x-app", "originator"}
)
_OURS_PREFIX = ("x-forwarded-", "relayd-")
_CLIENTS_PREFIX = ("x-stainless-", "x-claude-", "sec-")


def _header_findings(path: KeyPath, value: str) -> Iterator[Finding]:
    """A constant header: well formed, and neither the relay's own business nor a client's word about itself."""
    header = str(path[-1])
    lower = header.lower()
    if not _TOKEN.fullmatch(header):
        message = f"headers: {quote(header)} is not a header name"
        yield Finding(path=path, code="E-HEADER", message=message, at="key", secret=True)
    elif not _VALUE.fullmatch(value):
        message = f"{dotted(path)}: expected visible ASCII characters, with blanks only between them"
        yield Finding(path=path, code="E-HEADER", message=message, secret=True)
    if lower in _OURS or lower.startswith(_OURS_PREFIX):
        message = f"{dotted(path)}: relayd writes this header itself"
        hint = "credentials go into [credential]" if lower in _CREDENTIAL_HEADERS else ""
        yield Finding(path=path, code="E-HEADER-RESERVED", message=message, hint=hint, at="key", secret=True)
    if lower in _CLIENTS or lower.startswith(_CLIENTS_PREFIX):
        message = f"{dotted(path)}: this is what a client says about itself, and relayd does not change it"
        yield Finding(path=path, code="E-HEADER-RESERVED", message=message, at="key", secret=True)
