"""Snapshot and schema: the nouns of the config, what a tree means once compiled.

Rule: frozen data only, defaults applied, no parsing (compile.py) and no behaviour. This file is also the one table of
the schema: every field carries its unit (the type), its reload class and a sentence of documentation; the compiler,
`relayd schema`, the diff and docs/config-reference.md are all made from it.

Reload classes: HOT acts on the next call; DRAIN opens anew and lets the old finish; REVOKE may act on live streams;
RESTART is reported until the daemon restarts.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NewType

import attrs

from relayd.config.pattern import Pattern, ours
from relayd.noun import noun

Seconds = NewType("Seconds", float)  # written "90s", "5m", "1h30m"
Size = NewType("Size", int)  # bytes; written "32MiB", "1GB", or a plain integer
MicroUsd = NewType("MicroUsd", int)  # millionths of a US dollar; written "12.50", exact
ObjectId = NewType("ObjectId", str)  # NAME: the stem of an account's or key's file
Glob = NewType("Glob", str)  # `*` and `?` over model ids
Network = NewType("Network", str)  # an address or CIDR range
Url = NewType("Url", str)  # http:// or https://, no user part, no query
Proxy = NewType("Proxy", str)  # "", http://, https:// or socks5://, optional user:password

AccountKindName = Literal["api-key", "oauth", "session-key", "simulator"]  # each is a row of secrets/account_kinds.py

NAME = r"[a-z0-9][a-z0-9_-]{0,62}"  # of accounts, keys, groups, client rules and the realm
KeyPath = tuple[str | int, ...]  # the place of a key in a file: ("limits", "windows", 0, "cost")

HOT, DRAIN, REVOKE, RESTART = "hot", "drain", "revoke", "restart"
NO_MAP: Mapping[str, str] = MappingProxyType({})


def key(
    default: Any = attrs.NOTHING,
    *,
    doc: str,
    reload: str = HOT,
    low: float | None = None,
    high: float | None = None,
    secret: bool = False,
    form: str = "",
) -> Any:
    """One key of the schema.

    Args:
        default: what holds when the key is absent; none means that it is required.
        doc: one sentence for people, shown by `relayd schema` and docs/config-reference.md.
        reload: the reload class.
        low, high: bounds of a number, a duration (s) or a size (bytes), inclusive.
        secret: never quoted in a problem, a diff or a status.
        form: name of the form that a string (or each string of an array) must have: a key of `types.FORMS`.
    """
    metadata = {"doc": doc, "reload": reload, "low": low, "high": high, "secret": secret, "form": form}
    return attrs.field(default=default, metadata=metadata, repr=not secret)


@noun(kw_only=True)
class Rate:
    """A number of requests in any window of that length."""

    requests: int = key(0, doc="Requests admitted in any such window; 0 = no limit.", low=0)
    window: Seconds = key(Seconds(60.0), doc="Length of the rolling window.", low=1, high=31 * 86400)


@noun(kw_only=True)
class Window:
    """The general form of a limit: requests, tokens and cost, in any mix, within one window."""

    window: str = key(
        doc='A duration ("5h") rolls; "day", "week" and "month" are calendar periods in `state.timezone`.',
        form="window",
    )
    requests: int = key(0, doc="Requests; 0 = no limit.", low=0)
    tokens: int = key(0, doc="Tokens of every kind; 0 = no limit.", low=0)
    cost: MicroUsd = key(MicroUsd(0), doc='Cost in USD, as a string; "0" = no limit.', low=0)


@noun(kw_only=True)
class Limits:
    """What a key may consume. In a key's file a field left out takes the value of relay.toml's `[limits]`."""

    concurrency: int = key(0, doc="Calls in flight at once; 0 = no limit.", low=0)
    wait: Seconds = key(
        Seconds(0.0),
        doc="How long a call may wait for one of those to end, first come first served; 0s = refused at once.",
        low=0,
        high=30,
    )
    reserve: Literal["expected", "worst-case"] = key(
        "expected",
        doc='What a call in flight holds of token and cost limits: "expected" is what calls of this key and model'
        ' really use, "worst-case" is its whole max_tokens.',
    )
    rate: Rate = key(Rate(), doc="Requests in a rolling window.")
    tokens_per_minute: int = key(0, doc="Tokens in any minute; 0 = no limit.", low=0)
    daily_requests: int = key(0, doc="Requests in a calendar day; 0 = no limit.", low=0)
    monthly_requests: int = key(0, doc="Requests in a calendar month; 0 = no limit.", low=0)
    daily_tokens: int = key(0, doc="Tokens in a calendar day; 0 = no limit.", low=0)
    monthly_tokens: int = key(0, doc="Tokens in a calendar month; 0 = no limit.", low=0)
    daily_cost: MicroUsd = key(MicroUsd(0), doc='Cost in a calendar day, USD; "0" = no limit.', low=0)
    monthly_cost: MicroUsd = key(MicroUsd(0), doc='Cost in a calendar month, USD; "0" = no limit.', low=0)
    total_cost: MicroUsd = key(MicroUsd(0), doc='Cost over the life of the key, USD; "0" = no limit.', low=0)
    count_tokens: int = key(600, doc="Token-counting calls in any minute; 0 = no limit.", low=0)
    windows: tuple[Window, ...] = key((), doc="Further limits in the general form.")


@noun(kw_only=True)
class Server:
    """[server]: the public listener."""

    listen: tuple[str, ...] = key(
        ("127.0.0.1:3000",), doc="Addresses: host:port, [v6]:port or unix:/path.", reload=DRAIN, form="address"
    )
    workers: int | Literal["auto"] = key(
        1,
        doc='Processes that serve on one listener; "auto" = one for each processor that memory suffices for.',
        reload=DRAIN,
        low=1,
        high=256,
    )
    max_memory: Size = key(
        Size(0),
        doc="Resident memory of a worker, where there are several; a larger one is drained and replaced. 0 = any.",
        low=0,
        high=1 << 40,
    )
    max_request_body: Size = key(Size(32 << 20), doc="Largest request body.", low=1024, high=1 << 30)
    max_connections: int = key(
        10000,
        doc="Open client connections, as far as descriptors and memory allow; more are answered 503 and closed.",
        low=1,
    )
    max_concurrent_requests: int = key(0, doc="Calls in flight; over it 529 with retry-after. 0 = no limit.", low=0)
    rate: Rate = key(Rate(), doc="Requests of all keys together in a rolling window.")
    header_timeout: Seconds = key(Seconds(10.0), doc="For the whole request head.", low=0.1, high=3600)
    body_timeout: Seconds = key(Seconds(60.0), doc="Between bytes of a request body.", low=0.1, high=3600)
    body_deadline: Seconds = key(Seconds(600.0), doc="For a whole request body.", low=0.1, high=86400)
    body_memory: Size = key(
        Size(0),
        doc="Request bodies held in memory at once, all together; 0 = a fifth of the memory that the program leaves.",
        low=0,
    )
    keep_alive_timeout: Seconds = key(
        Seconds(75.0), doc="For the next request on an open connection.", low=0, high=86400
    )
    write_timeout: Seconds = key(
        Seconds(60.0),
        doc="For a client to take a single byte of its answer, and to acknowledge what it was sent.",
        low=0.1,
        high=3600,
    )
    drain_timeout: Seconds = key(
        Seconds(600.0), doc="How long calls may finish when the daemon stops.", low=0, high=86400
    )
    drain_delay: Seconds = key(
        Seconds(0.0),
        doc="How long calls are still taken when the daemon stops and /readyz is 503 already, so that load balancers "
        "send them elsewhere. Not with sockets that systemd holds.",
        low=0,
        high=3600,
    )
    trusted_proxies: tuple[Network, ...] = key(
        (Network("127.0.0.1"), Network("::1")), doc="Peers whose X-Forwarded-For and X-Real-IP are believed."
    )
    cors_origins: tuple[str, ...] = key((), doc='Origins that browsers may call from; "*" = any.', form="origin-or-any")
    sse_keepalive: Seconds = key(
        Seconds(15.0), doc='An SSE comment after so much upstream silence; "0s" = off.', low=0, high=3600
    )
    sse_head_after: Seconds = key(
        Seconds(20.0),
        doc="A stream whose upstream has not begun to answer gets its head and comments after so much silence, and "
        'stays with that account from then on; "0s" = never.',
        low=0,
        high=3600,
    )


@noun(kw_only=True)
class AdminUser:
    """[[admin.users]]: a person who signs in to the admin pages."""

    name: str = key(doc="Sign-in name.")
    password_hash: str = key(doc="scrypt hash of the password.", secret=True, form="scrypt")
    role: Literal["viewer", "editor"] = key("viewer", doc="What the person may do.")
    totp: str = key("", doc="Sealed TOTP seed; optional.", secret=True, form="sealed")
    email: str = key("", doc="Under which their edits are committed; optional.", form="email")


@noun(kw_only=True)
class AdminToken:
    """[[admin.tokens]]: a bearer token of a machine."""

    name: str = key(doc="What the token is for.")
    sha256: str = key(doc="SHA-256 of the token, 64 hex digits.", secret=True, form="sha256")
    role: Literal["viewer", "editor"] = key("viewer", doc="What the bearer may do.")


@noun(kw_only=True)
class Admin:
    """[admin]: the admin listener."""

    listen: str = key(
        "127.0.0.1:3001", doc='Web pages, /metrics, admin API; "" = off.', reload=DRAIN, form="address-or-off"
    )
    users: tuple[AdminUser, ...] = key((), doc="People.")
    tokens: tuple[AdminToken, ...] = key((), doc="Machines.")
    hosts: tuple[str, ...] = key(
        (), doc="Names under which the pages are reached; localhost and addresses always are.", form="host"
    )
    proxy_user_header: str = key(
        "", doc="Header in which a trusted proxy names who is signed in there; empty = none.", form="header"
    )
    push: str = key(
        "", doc="Git remote to which edits of the pages are pushed; left out = edits are only committed.", form="name"
    )
    calls: int = key(
        10_000, doc="Recent calls that are kept for the pages, for seven days; 0 = none.", low=0, high=1_000_000
    )


@noun(kw_only=True)
class State:
    """[state]: where counters live."""

    url: str = key(
        "sqlite:var/relayd.db",
        doc="sqlite:PATH, redis://, rediss://, redis+sentinel:// or redis+cluster://; without a password.",
        reload=RESTART,
        form="state-url",
    )
    password_file: str = key(
        "",
        doc="File with the password in a directory of RELAYD_CREDENTIALS; a store elsewhere is named by the node.",
        reload=RESTART,
        form="path",
    )
    on_outage: Literal["allow", "deny"] = key(
        "allow", doc='"allow" keeps serving, enforces locally and replays; "deny" answers 503.'
    )
    lease: Seconds = key(
        Seconds(60.0),
        doc="So long after its last heartbeat the slots of a node that died are free and its open calls are booked.",
        reload=RESTART,
        low=2,
        high=3600,
    )
    keep_items: Seconds = key(
        Seconds(86400.0),
        doc='How long items of Responses answers are kept for clients that refer to them, after their last use; "0s" = '
        "not at all.",
        low=0,
        high=2_592_000,
    )
    timezone: str = key("UTC", doc="Where days, weeks and months begin (an IANA name).", form="timezone")


@noun(kw_only=True)
class Upstream:
    """[upstream]: defaults of every account."""

    base_url: Url = key(Url("https://api.anthropic.com"), doc="Origin and path prefix of the API.", reload=DRAIN)
    connect_timeout: Seconds = key(Seconds(10.0), doc="For name look-up, connect and TLS.", low=0.1, high=600)
    first_byte_timeout: Seconds = key(Seconds(300.0), doc="From the request sent to the first answer byte.", low=0.1)
    plain_timeout: Seconds = key(
        Seconds(600.0),
        doc="The same for a message that does not stream: its head comes once all of it is written.",
        low=0.1,
    )
    idle_timeout: Seconds = key(Seconds(300.0), doc="Between bytes of an answer.", low=0.1)
    total_timeout: Seconds = key(Seconds(3600.0), doc="For the whole call.", low=0.1)
    models_every: Seconds = key(
        Seconds(3600.0), doc='How often an account is asked which models it has; "0s" = never.', low=0
    )
    max_attempts: int = key(3, doc="Accounts tried for one call.", low=1, high=20)


@noun(kw_only=True)
class Cooldown:
    """[routing] cooldown: how long to rest after a fault that names no time."""

    overloaded: Seconds = key(Seconds(15.0), doc="After 529.", low=0)
    server_error: Seconds = key(Seconds(10.0), doc="After 5xx.", low=0)
    unreachable: Seconds = key(Seconds(10.0), doc="After a failed connection.", low=0)
    auth: Seconds = key(
        Seconds(1800.0), doc="After 401 or 403 of the credential, or a closed or unpaid account.", low=0
    )
    rate_limited: Seconds = key(Seconds(60.0), doc="After 429 without retry-after or reset headers.", low=0)


@noun(kw_only=True)
class Breaker:
    """[routing] breaker: how many failures within how long open it."""

    failures: int = key(5, doc="Failures that open the breaker.", low=1)
    window: Seconds = key(Seconds(60.0), doc="Within this window.", low=1)


@noun(kw_only=True)
class Routing:
    """[routing]: how an account is chosen."""

    strategy: Literal["balanced", "priority", "round-robin"] = key("balanced", doc="Order among equal accounts.")
    affinity: Seconds = key(
        Seconds(3600.0), doc='A conversation stays on its account this long after its last call; "0s" = off.', low=0
    )
    reserve: float = key(0.02, doc="Share of an upstream window that is left unspent.", low=0, high=0.9)
    probe: Seconds = key(Seconds(0.0), doc='Interval of health probes; "0s" = none.', low=0)
    cooldown: Cooldown = key(Cooldown(), doc="Rest after a fault that names no time.")
    breaker: Breaker = key(Breaker(), doc="Failures that rest an account.")


@noun(kw_only=True)
class ClientRule:
    """[clients.ID]: how a client program is recognised. Every pattern given must match."""

    name: str = key("", doc="For people; the id when left out.")
    user_agent: Pattern | None = key(None, doc="Regular expression (RE2 syntax) searched in User-Agent.")
    headers: Mapping[str, Pattern] = key(NO_MAP, doc="Further headers, each with a regular expression (RE2 syntax).")


def _program(name: str, user_agent: str) -> ClientRule:
    return ClientRule(name=name, user_agent=ours(user_agent))


# What each program says of itself, as captured from real runs. The word after "external," in Claude Code's User-Agent
# names its entry point (cli, sdk-cli, an editor, ...), so the pattern stops before it. `claude-code/` is the same
# program asking for the model list. A User-Agent proves nothing: these rules sort honest programs.
PREDEFINED_CLIENTS: Mapping[str, ClientRule] = MappingProxyType(
    {
        "claude_code": _program("Claude Code", r"^claude-(?:cli/[0-9.]+ \(external,|code/[0-9])"),
        "gemini_cli": _program("Gemini CLI", r"^GeminiCLI(?:-[A-Za-z0-9]+)?/"),
        "codex_cli": _program("Codex CLI", r"^codex[_-][a-z_]+/"),
    }
)


@noun(kw_only=True)
class OAuth:
    """[oauth]: the operator's own OAuth registration."""

    authorize_url: Url = key(Url("https://claude.ai/oauth/authorize"), doc="Where a person consents.")
    token_url: Url = key(Url("https://platform.claude.com/v1/oauth/token"), doc="Where codes and tokens are exchanged.")
    client_id: str = key("", doc="The registration's client id; nothing is preset.")
    scopes: tuple[str, ...] = key(("user:inference",), doc="Scopes asked for.")
    redirect_uri: str = key("", doc='Where the code comes back; "" = a loopback address.')


@noun(kw_only=True)
class Recipient:
    """[[secrets.recipients]]: someone who can open sealed values."""

    name: str = key(doc="For people.")
    public: str = key(doc="Public key, rlpub1...", form="recipient")
    state: Literal["active", "retiring", "removed"] = key("active", doc="Whether new values are sealed to it.")


@noun(kw_only=True)
class Secrets:
    """[secrets]."""

    recipients: tuple[Recipient, ...] = key((), doc="Who can open sealed values; at most 16.")
    crs_encryption_key: str = key(
        "", doc="Sealed ENCRYPTION_KEY of the relay whose keys have scheme crs-sha256.", secret=True, form="sealed"
    )


@noun(kw_only=True)
class Guard:
    """[guard]: which changes are held for confirmation."""

    max_removed: int = key(
        5, doc="Accounts or keys that may go at once whatever their share, up to half of them.", low=0
    )
    max_removed_share: float = key(
        0.25, doc="Share of the accounts or keys that may go at once; 1 = any number but all.", low=0, high=1
    )
    empty_group: bool = key(True, doc="Hold a change that leaves a used group without an enabled account.")
    wider: bool = key(
        True, doc="Hold a change that empties a key's models, deny_models, clients or allowed_ips, which allows all."
    )
    realm: bool = key(True, doc="Hold a change of `realm`.")


@noun(kw_only=True)
class Alert:
    """[alerts.ID]: where alerts go, and which."""

    url: str = key("", doc="Sealed webhook or Apprise URL.", secret=True, form="sealed")
    url_file: str = key("", doc="File with the URL in a directory of RELAYD_CREDENTIALS.", form="path")
    format: Literal["json", "slack", "discord", "apprise"] = key(
        "json",
        doc="What stands behind the URL: a program that takes JSON, Slack, Discord, or what Apprise knows.",
    )
    signing_key: str = key(
        "", doc='Sealed key with which notices of format "json" are signed.', secret=True, form="sealed"
    )
    signing_key_file: str = key("", doc="File with that key in a directory of RELAYD_CREDENTIALS.", form="path")
    events: tuple[str, ...] = key((), doc="Globs of events that are told; [] = all.", form="alert-event")
    severity: Literal["info", "warning", "critical"] = key("info", doc="Least severe event that is told.")
    keys: tuple[Glob, ...] = key((), doc="Of events about a key, those of these keys; [] = all.")
    owners: tuple[str, ...] = key((), doc="Of events about a key, those of keys of these owners; [] = all.")
    accounts: tuple[Glob, ...] = key((), doc="Of events about an account, those of these accounts; [] = all.")
    groups: tuple[Glob, ...] = key(
        (), doc="Of events about a group, a key or an account, those of these groups; [] = all."
    )
    gather: Seconds = key(Seconds(10.0), doc="How long events gather, to be told in one notice.", low=0, high=3600)
    repeat: Seconds = key(
        Seconds(86400.0), doc='How often it is told again what still lasts; "0s" = never.', low=0, high=31 * 86400
    )
    recoveries: bool = key(True, doc="Whether it is told when something is over.")
    calm: Seconds = key(
        Seconds(60.0), doc="How long something must have been over before that is told.", low=0, high=86400
    )
    daily_report: str = key(
        "", doc='When the day before is reported, "HH:MM" in [state].timezone; "" = not at all.', form="time-of-day"
    )
    allow_private: bool = key(
        False, doc="Whether the URL may lead to an address that is not a global one, such as 10.0.0.7 or localhost."
    )


LogLevel = Literal["debug", "info", "warning", "error"]
LogArea = Literal[
    "access",
    "account",
    "admin",
    "alert",
    "call",
    "control",
    "daemon",
    "errors",
    "fleet",
    "group",
    "identity",
    "key",
    "limit",
    "log",
    "oauth",
    "objects",
    "old_keys",
    "price",
    "reload",
    "report",
    "server",
    "source",
    "state",
    "systemd",
    "telemetry",
    "traffic",
    "tree",
    "usage",
    "watch",
    "worker",
]


@noun(kw_only=True)
class Log:
    """[log]."""

    level: LogLevel = key("info", doc="Least severe line written.")
    levels: Mapping[LogArea, LogLevel] = key(
        MappingProxyType({}), doc="The same for the events of one area, the word before their dot: docs/logs.md."
    )
    format: Literal["auto", "json", "text"] = key(
        "auto", doc='One JSON object or one text line per event; "auto" = text on a terminal, JSON elsewhere.'
    )
    file: str = key(
        "", doc='A file in RELAYD_LOG_DIR, reopened on SIGUSR1; "" = standard error.', reload=RESTART, form="path"
    )
    access: bool = key(True, doc="One line per call.")


@noun(kw_only=True)
class Policy:
    """[policy]: what `check` insists on."""

    allowed_origins: tuple[str, ...] = key((), doc="Origins that a base_url may have; [] = any https.", form="origin")
    max_key_age: Seconds = key(
        Seconds(0.0), doc='Longest time from `created` to `expires` of a key; "0s" = any.', low=0
    )
    require_expiry: bool = key(False, doc="Every key must expire.")
    require_owner: bool = key(False, doc="Every key must have an owner.")
    require_limits: bool = key(False, doc="Every key must have some limit, its own or that of [limits].")
    unknown_model_cost: Literal["allow", "deny"] = key(
        "allow", doc="What cost limits do with a model that has no price."
    )
    readyz: Literal["node", "service", "draining"] = key(
        "node",
        doc="When /readyz is 503 besides draining: when this node alone cannot serve, when nobody can, or never.",
    )
    on_revoke: Literal["finish", "cut"] = key("finish", doc="What a live stream of a revoked key does.", reload=REVOKE)


@noun(kw_only=True)
class AllowedWarning:
    """[check] allow: a warning that somebody has looked at."""

    code: str = key(doc='Code of a warning, such as "W-OAUTH-PERSONAL".', form="warning-code")
    file: str = key(doc='File that it is about, as `check` shows it; "" = the tree as a whole.')
    why: str = key(doc="Why it is all right, for whoever reads it next.")


@noun(kw_only=True)
class CheckSettings:
    """[check]: what `check` may pass over."""

    allow: tuple[AllowedWarning, ...] = key((), doc="Warnings that were looked at: they are counted, and not reported.")


@noun(kw_only=True)
class Pace:
    """[pace]: our own ceiling, below the provider's."""

    requests_per_minute: int = key(0, doc="Calls started in any minute, over all nodes; 0 = no limit.", low=0)


@noun(kw_only=True)
class Credential:
    """[credential]: the secret that relayd presents; sealed or in a node-local file, never in clear."""

    sealed: str = key("", doc="A sealed value, rlsec1...", secret=True, form="sealed")
    file: str = key("", doc="File that holds the secret, in a directory of RELAYD_CREDENTIALS.", form="path")


@noun(kw_only=True)
class Simulator:
    """[simulator]: how an account of kind "simulator" answers. A fault hits every `every`-th call."""

    words: int = key(20, doc="Text deltas of an answer.", low=0, high=100_000)
    first_byte: Seconds = key(Seconds(0.0), doc="Wait before the answer.", low=0, high=3600)
    between: Seconds = key(Seconds(0.0), doc="Wait between events.", low=0, high=3600)
    requests_limit: int = key(
        0,
        doc="Messages answered in a minute, then 429; 0 = no limit (the headers show a window that never runs out).",
        low=0,
    )
    require_credential: bool = key(False, doc="Answer 401 to a call that carries no credential.")
    every: int = key(1, doc="Faults below hit every n-th call only.", low=1)
    status: int = key(200, doc="Answer with this status instead.", low=200, high=599)
    error_type: str = key("", doc='Type in an error answer or error event; "" = the one that belongs to the status.')
    retry_after: int = key(0, doc="Seconds in retry-after of an error answer; 0 = none.", low=0)
    drop: bool = key(False, doc="Close the connection instead of answering.")
    cut_after: int = key(-1, doc="Close the connection after so many events of a stream; -1 = never.", low=-1)
    error_after: int = key(-1, doc="Send an error event after so many events; -1 = never.", low=-1)
    bad_framing: bool = key(False, doc="Break the chunked framing in mid-answer.")


@noun(kw_only=True)
class Account:
    """accounts.d/ID.toml: an identity at an upstream."""

    id: ObjectId
    kind: AccountKindName = key(doc="How the credential is presented.", reload=DRAIN)
    name: str = key("", doc="For people.")
    email: str = key("", doc="For people.")
    enabled: bool = key(True, doc="Whether it may serve.", reload=REVOKE)
    imported: str = key("", doc="From which relay and id it was taken over, so that an import finds it again.")
    groups: tuple[str, ...] = key(("default",), doc="Which keys may use it.", form="name")
    priority: int = key(50, doc="Lower first.", low=0, high=1000)
    weight: int = key(1, doc="Share within a priority.", low=1, high=1000)
    models: tuple[Glob, ...] = key((), doc="Models it may serve; [] = all.")
    max_concurrency: int = key(0, doc="Calls at once, over all nodes; 0 = no limit.", low=0)
    pace: Pace = key(Pace(), doc="Our own ceiling below the provider's.")
    base_url: Url | None = key(None, doc="Origin and path prefix; default [upstream].base_url.", reload=DRAIN)
    proxy: Proxy = key(Proxy(""), doc="http://, https:// or socks5:// on the way upstream.", reload=DRAIN, secret=True)
    model_map: Mapping[str, str] = key(NO_MAP, doc='"requested" = "sent".')
    headers: Mapping[str, str] = key(NO_MAP, doc="Constant extra request headers.", secret=True)
    credential: Credential = key(Credential(), doc="The secret that relayd presents.")
    simulator: Simulator = key(Simulator(), doc='Answers of kind "simulator".')


KeyScheme = Literal["relayd-v1", "crs-sha256", "litellm-sha256"]


@noun(kw_only=True)
class KeyHash:
    """One hash of an API key; two while rotating."""

    sha256: str = key(doc='SHA-256 of "relayd-key-v1\\0" + key, 64 hex digits.', reload=REVOKE, form="sha256")
    scheme: KeyScheme = key(
        "relayd-v1", doc="What else the hash is of, for keys that another relay issued (docs/keys.md).", reload=REVOKE
    )
    hint: str = key("", doc="The key's first characters, for people.", form="hint")
    expires: datetime.datetime | None = key(None, doc="When this hash stops counting.")


KeyEndpoint = Literal["messages", "openai", "models", "batches", "files", "skills"]


@noun(kw_only=True)
class ApiKey:
    """keys.d/ID.toml: a secret that a client presents, and what it may do."""

    id: ObjectId
    name: str = key("", doc="For people.")
    owner: str = key("", doc="Who answers for it; keys of one owner share batches, files and skills.")
    enabled: bool = key(True, doc="Whether it is accepted.", reload=REVOKE)
    created: datetime.datetime | None = key(None, doc="When it was issued.")
    expires: datetime.datetime | None = key(None, doc="When it stops being accepted.")
    hashes: tuple[KeyHash, ...] = key(doc="One hash, or two while rotating.", reload=REVOKE)
    imported: str = key("", doc="From which relay and id it was taken over, so that an import finds it again.")
    groups: tuple[str, ...] = key(("default",), doc="Account groups it may use, in order of preference.", form="name")
    models: tuple[Glob, ...] = key((), doc="Models it may ask for; [] = all.")
    deny_models: tuple[Glob, ...] = key((), doc="Models it may not ask for.")
    clients: tuple[str, ...] = key((), doc="Client rules, one of which must match; [] = any client.", form="name")
    endpoints: tuple[KeyEndpoint, ...] = key(("messages", "openai", "models"), doc="What it may call.")
    allowed_ips: tuple[Network, ...] = key((), doc="Addresses it may call from; [] = any.")
    max_tokens: int = key(0, doc="Cap on a call's max_tokens; 0 = none.", low=0)
    cache_prompts: bool = key(
        False, doc="Ask for automatic prompt caching on OpenAI calls, which cannot ask for it themselves."
    )
    limits: Limits = key(Limits(), doc="What it may consume.")


@noun(kw_only=True)
class Deny:
    """deny.toml: what is refused at once, whatever the rest of the tree says."""

    keys: tuple[ObjectId, ...] = key((), doc="Key ids.", reload=REVOKE)
    sha256: tuple[str, ...] = key((), doc="Hashes of keys.", reload=REVOKE, form="sha256")
    accounts: tuple[ObjectId, ...] = key((), doc="Account ids that may not serve.", reload=REVOKE)
    ips: tuple[Network, ...] = key((), doc="Client addresses.", reload=REVOKE)


@noun(kw_only=True)
class LongContext:
    """[models.ID.long_context]: what a call costs whose prompt is larger than `above`, all of it."""

    above: int = key(0, doc="Prompt tokens, cached or not; 0 = no such tier.", low=0)
    input: MicroUsd = key(MicroUsd(0), doc="Uncached prompt.", low=0)
    output: MicroUsd = key(MicroUsd(0), doc="Answer, thinking included.", low=0)
    cache_write_5m: MicroUsd = key(MicroUsd(0), doc="Prompt written to the five-minute cache.", low=0)
    cache_write_1h: MicroUsd = key(MicroUsd(0), doc="Prompt written to the one-hour cache.", low=0)
    cache_read: MicroUsd = key(MicroUsd(0), doc="Prompt read from the cache.", low=0)


@noun(kw_only=True)
class Price:
    """[models.ID] of prices.toml: USD per million tokens, as exact strings."""

    input: MicroUsd = key(doc="Uncached prompt.", low=0)
    output: MicroUsd = key(doc="Answer, thinking included.", low=0)
    cache_write_5m: MicroUsd = key(doc="Prompt written to the five-minute cache.", low=0)
    cache_write_1h: MicroUsd = key(doc="Prompt written to the one-hour cache.", low=0)
    cache_read: MicroUsd = key(doc="Prompt read from the cache.", low=0)
    long_context: LongContext = key(LongContext(), doc="Prices of long prompts.")
    batch_percent: int = key(50, doc="Of the token prices, for a call in a batch.", low=0, high=1000)
    us_percent: int = key(100, doc="Of the token prices, for inference kept in the US.", low=0, high=1000)
    fast_percent: int = key(100, doc="Of the token prices, for fast mode.", low=0, high=1000)
    web_search: MicroUsd = key(MicroUsd(10_000_000), doc="A thousand web searches.", low=0)


@noun(kw_only=True)
class Prices:
    """prices.toml: what models cost where relayd's own list is wrong or silent."""

    models: Mapping[str, Price] = key(MappingProxyType({}), doc="USD per million tokens, by model id.")


@noun(kw_only=True)
class Relay:
    """relay.toml."""

    schema: int = key(doc="Version of the schema; 1.")
    realm: str = key(doc="Names this deployment, in state keys and inside sealed secrets.", reload=RESTART, form="name")
    server: Server = key(Server(), doc="The public listener.")
    admin: Admin = key(Admin(), doc="The admin listener.")
    state: State = key(State(), doc="Where counters live.")
    upstream: Upstream = key(Upstream(), doc="Defaults of every account.")
    routing: Routing = key(Routing(), doc="How an account is chosen.")
    limits: Limits = key(Limits(), doc="Defaults for keys that do not say otherwise.")
    models: Mapping[str, str] = key(NO_MAP, doc='alias = "real model id", for every key.')
    clients: Mapping[str, ClientRule] = key(PREDEFINED_CLIENTS, doc="How client programs are recognised.")
    oauth: OAuth = key(OAuth(), doc='For kind = "oauth".')
    secrets: Secrets = key(Secrets(), doc="Who can open sealed values.")
    guard: Guard = key(Guard(), doc="Which changes are held for confirmation.")
    alerts: Mapping[str, Alert] = key(MappingProxyType({}), doc="Where alerts go.")
    log: Log = key(Log(), doc="The log.")
    policy: Policy = key(Policy(), doc="What `check` insists on.")
    check: CheckSettings = key(CheckSettings(), doc="What `check` may pass over.")


@noun(kw_only=True)
class Snapshot:
    """A whole tree, compiled. Everything a call needs to know of the config, in look-ups that cost O(1).

    Args:
        relay: relay.toml with defaults applied (`clients` includes the predefined rules).
        accounts: by id. A disabled account is here too.
        keys: by id, with limits merged over `[limits]`.
        keys_by_hash: the 32 bytes of each hash, with the key and the hash entry.
        deny: deny.toml.
        prices: overrides of prices.toml, by model id.
        old_digests: how a key of another relay becomes the digest in `keys_by_hash`, by scheme; what needs a secret is
            there once the daemon has opened it.
        revision: the first 12 hex digits of the digest over the files of the tree.
    """

    relay: Relay
    accounts: Mapping[str, Account]
    keys: Mapping[str, ApiKey]
    keys_by_hash: Mapping[bytes, tuple[ApiKey, KeyHash]] = attrs.field(repr=False)
    deny: Deny = Deny()
    prices: Mapping[str, Price] = attrs.field(factory=dict, repr=False)
    old_digests: Mapping[str, Callable[[bytes], bytes]] = attrs.field(factory=dict, repr=False, eq=False)
    revision: str = ""
