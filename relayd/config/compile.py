"""Compiler: from the files of a tree to one Snapshot, or every Problem at once.

Rule: pure. Bytes in; no file system, no clock, no network, no identity (the one thing asked of the machine is its time
zone list). `relayd check` and the daemon run this same code.

Theory: three passes. Each file by itself (document, structure, per-file rules), which is remembered by content, so that
a reload after one edit costs one file; then what the files say about each other (cross-file rules); then, only if
nothing is wrong, the Snapshot. An error anywhere rejects the tree: a tree without one of its limits would be a
different, looser policy.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from relayd.config.model.document import (
    Document,
    FileKind,
    classify,
    object_id,
    open_document,
    stray_problems,
    without_value,
)
from relayd.config.model.scenario import Scenarios
from relayd.config.model.structure import Finding, structure
from relayd.config.model.tree_digest import CONFIG_KINDS, revision
from relayd.config.model.values import Bad, name
from relayd.config.problems.problem import ConfigError, Problem, in_order, is_error
from relayd.config.rules import per_file
from relayd.config.rules.allowed import Acknowledged, set_aside
from relayd.config.rules.credential_ways import credential_way_problems
from relayd.config.rules.cross_file import Parsed, cross_file_problems
from relayd.config.rules.lint import file_lint, tree_lint
from relayd.config.rules.scenario import scenario_findings, scenario_problems
from relayd.config.rules.sealed_values import sealed_value_problems
from relayd.config.secrets.api_keys import litellm_digest
from relayd.config.snapshot import (
    PREDEFINED_CLIENTS,
    Account,
    ApiKey,
    Deny,
    KeyHash,
    Limits,
    Prices,
    Relay,
    Snapshot,
)
from relayd.noun import noun

# More than a person corrects in one go; the rest shows up when these are gone.
MAX_PROBLEMS = 100

_NOUNS: dict[FileKind, type] = {
    "relay": Relay,
    "account": Account,
    "key": ApiKey,
    "deny": Deny,
    "prices": Prices,
    "test": Scenarios,
}


@noun(kw_only=True)
class Compiled:
    """What became of a tree.

    Args:
        snapshot: None when any problem is an error, but for errors in tests.d.
        problems: sorted by place; at most MAX_PROBLEMS, errors before warnings before notes.
        omitted: problems beyond those.
        acknowledged: warnings that [check] allow sets aside.
        revision: the first 12 hex digits of the digest over the files that are config (scenarios are not).
        files, accounts, keys: how many there are.
        scenarios: the files of tests.d.
    """

    snapshot: Snapshot | None
    problems: tuple[Problem, ...]
    omitted: int
    revision: str
    files: int
    accounts: int
    keys: int
    scenarios: tuple[Parsed, ...] = attrs.field(default=(), repr=False)
    acknowledged: tuple[Acknowledged, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing at all is an error."""
        return not any(map(is_error, self.problems))

    def require(self) -> Snapshot:
        """The snapshot. Raises: ConfigError with every problem."""
        if self.snapshot is None:
            raise ConfigError(self.problems)
        return self.snapshot


@attrs.define(eq=False)
class Memo:
    """What the last compile made of each file, for the next one. Holds no more than one tree."""

    parsed: dict[str, Parsed] = attrs.field(factory=dict, repr=False)
    limits: Limits | None = None  # of relay.toml, which `keys` were merged with
    keys: dict[str, tuple[Parsed, ApiKey]] = attrs.field(factory=dict, repr=False)


def compile_tree(
    files: Mapping[str, bytes],
    *,
    now: datetime.datetime | None = None,
    memo: Memo | None = None,
    reading: Iterable[Problem] = (),
) -> Compiled:
    """Compile a tree.

    Args:
        files: content by POSIX path relative to the tree, as tree.read_tree gives it.
        now: with an offset; adds warnings about expired keys. Without it the result depends on the bytes alone.
        memo: speeds up the next compile of almost the same tree.
        reading: problems from reading the files, reported with the others.
    Returns: the snapshot, or None, and all problems. Raises nothing, whatever the bytes are.
    """
    old = memo.parsed if memo else {}
    parsed = {path: _parsed(path, data, old.get(path)) for path, data in sorted(files.items())}
    if memo is not None:
        memo.parsed = parsed
    ours = [file for file in parsed.values() if file.kind != "ignored"]
    problems = [*reading, *(problem for file in ours for problem in file.problems)]
    problems += [
        *cross_file_problems(ours, now),
        *sealed_value_problems(ours),
        *credential_way_problems(ours),
        *tree_lint(ours, now),
        *scenario_problems(ours),
    ]
    if not any(file.kind == "relay" for file in ours) and not any(problem.file == "relay.toml" for problem in problems):
        problems.append(_no_relay_toml())
    problems, acknowledged = set_aside(problems, ours)
    kept = sorted(problems, key=lambda problem: "EWN".index(problem.code[0]))[:MAX_PROBLEMS]
    config = [file for file in ours if file.kind in CONFIG_KINDS]
    tree_revision = revision((file.document.file, file.digest) for file in config)
    return Compiled(
        snapshot=None if any(map(_stops, problems)) else _snapshot(config, tree_revision, memo or Memo()),
        problems=in_order(kept),
        omitted=len(problems) - len(kept) + sum(file.document.omitted for file in ours),
        revision=tree_revision,
        files=len(ours),
        accounts=sum(file.kind == "account" for file in ours),
        keys=sum(file.kind == "key" for file in ours),
        scenarios=tuple(file for file in ours if file.kind == "test"),
        acknowledged=tuple(acknowledged),
    )


def _stops(problem: Problem) -> bool:
    """Whether the daemon cannot use the tree. A mistake in a test must not hold up a change of the config."""
    return is_error(problem) and classify(problem.file) != "test"


def _no_relay_toml() -> Problem:
    return Problem(
        code="E-NO-RELAY-TOML",
        file="relay.toml",
        message="the tree has no relay.toml",
        hint="another directory: --config DIR; a new tree: relayd init DIR",
    )


def deny_of(files: Mapping[str, bytes]) -> Deny | tuple[Problem, ...]:
    """deny.toml by itself, whatever is wrong with the rest of the tree; its problems when it is not sound."""
    data = files.get("deny.toml")
    if data is None:
        return Deny()
    alone = _judged("deny", "deny.toml", b"", data)
    return alone.noun if isinstance(alone.noun, Deny) else alone.problems


def _parsed(path: str, data: bytes, old: Parsed | None) -> Parsed:
    digest = hashlib.sha256(data).digest()
    if old is not None and old.digest == digest:
        return old
    kind = classify(path)
    if kind in ("stray", "ignored"):
        problems = stray_problems(path, data) if kind == "stray" else []
        return Parsed(digest=digest, kind=kind, id="", document=Document(file=path, text=""), problems=tuple(problems))
    return _judged(kind, path, digest, data)


def _judged(kind: FileKind, path: str, digest: bytes, data: bytes) -> Parsed:
    """One config file by itself."""
    document, problems = open_document(path, data)
    identity = object_id(path)
    noun: Any = None
    if kind in ("account", "key"):
        problems += _name_problems(document, identity)
    if kind in _NOUNS and document.table is not None:
        noun, findings = _noun(kind, identity, document.table)
        problems += _problems(document, findings)
    parsed = Parsed(
        digest=digest,
        kind=kind,
        id=identity,
        document=document,
        noun=None if any(map(is_error, problems)) else noun,
        problems=tuple(problems),
        given_limits=_given_limits(document.table or {}),
    )
    if kind != "relay":  # cross_file.py reads what it can of relay.toml, even where it has errors
        document.forget_table()
    return attrs.evolve(parsed, problems=(*problems, *found)) if (found := list(file_lint(parsed))) else parsed


def _given_limits(table: Mapping[str, Any]) -> frozenset[str]:
    limits = table.get("limits")
    return frozenset(limits) if isinstance(limits, dict) else frozenset()


def _name_problems(document: Document, identity: str) -> Iterator[Problem]:
    try:
        name(identity)
    except Bad as bad:
        yield document.whole(bad.code, f"file name: {bad.message()}", hint="rename the file")


def _noun(kind: FileKind, identity: str, table: dict[str, Any]) -> tuple[Any, list[Finding]]:
    """The noun of a table (None if it cannot be made), and what is wrong with it."""
    findings = []
    if kind in ("account", "key"):
        if "id" in table:
            hint = "the id is the name of the file"
            findings.append(
                Finding(path=("id",), code="E-UNKNOWN-KEY", message="unknown key `id`", hint=hint, at="key")
            )
        table = {**table, "id": identity if _is_name(identity) else "unnamed"}
    made = structure(_NOUNS[kind], table)
    if isinstance(made, list):
        return None, findings + made
    return made, [*findings, *_findings(made)]


def _is_name(identity: str) -> bool:
    try:
        name(identity)
    except Bad:
        return False
    return True


def _findings(noun: Any) -> Iterator[Finding]:
    match noun:
        case Relay():
            yield from per_file.relay_findings(noun)
        case Account():
            yield from per_file.account_findings(noun)
        case ApiKey():
            yield from per_file.key_findings(noun)
        case Scenarios():
            yield from scenario_findings(noun)


def _problems(document: Document, findings: Sequence[Finding]) -> list[Problem]:
    """Findings with their places, as many as a whole tree may show: errors first. What one of them hides no other may
    show in its excerpt of the same line."""
    shown = sorted(findings, key=lambda finding: "EWN".index(finding.code[0]))[:MAX_PROBLEMS]
    document.omitted += len(findings) - len(shown)
    problems = [
        document.problem(
            finding.code, finding.path, finding.message, hint=finding.hint, at=finding.at, secret=finding.secret
        )
        for finding in shown
    ]
    hidden = {problem.line for problem, finding in zip(problems, shown, strict=True) if finding.secret}
    times = Counter(problem.line for problem in problems)
    return [
        attrs.evolve(problem, excerpt=without_value(problem.excerpt, problem.excerpt.find("=") + 1))
        if problem.line in hidden and times[problem.line] > 1 and problem.excerpt
        else problem
        for problem in problems
    ]


def _snapshot(files: Sequence[Parsed], revision: str, memo: Memo) -> Snapshot:
    """Put a tree without errors together."""
    relay = _whole_relay(next(file.noun for file in files if file.kind == "relay"))
    known = memo.keys if memo.limits == relay.limits else {}
    memo.limits, memo.keys = relay.limits, {}
    for file in files:
        if file.kind == "key":
            old = known.get(file.id)
            key = old[1] if old is not None and old[0] is file else _with_limits(file, relay.limits)
            memo.keys[file.id] = file, key
    keys = {name: key for name, (_, key) in memo.keys.items()}
    prices: Prices = next((file.noun for file in files if file.kind == "prices"), Prices())
    return Snapshot(
        relay=relay,
        accounts=MappingProxyType({file.id: file.noun for file in files if file.kind == "account"}),
        keys=MappingProxyType(keys),
        keys_by_hash=MappingProxyType(by_hash(keys.values())),
        deny=next((file.noun for file in files if file.kind == "deny"), Deny()),
        prices=prices.models,
        old_digests=MappingProxyType(plain_digests(keys.values())),
        revision=revision,
    )


def _whole_relay(relay: Relay) -> Relay:
    """With the predefined client rules, and each alias followed to its end."""
    clients = {client: rule if rule.name else attrs.evolve(rule, name=client) for client, rule in relay.clients.items()}
    ends = per_file.alias_ends(relay.models)
    models = {alias: ends[alias] or target for alias, target in relay.models.items()}
    return attrs.evolve(
        relay, clients=MappingProxyType({**PREDEFINED_CLIENTS, **clients}), models=MappingProxyType(models)
    )


def _with_limits(file: Parsed, defaults: Limits) -> ApiKey:
    """The key, where a limit that its file leaves out is relay.toml's. A 0 in the file is an answer, and stays."""
    key: ApiKey = file.noun
    if not file.given_limits:
        return attrs.evolve(key, limits=defaults)
    given = {field: getattr(key.limits, field) for field in file.given_limits}
    return attrs.evolve(key, limits=attrs.evolve(defaults, **given))


def plain_digests(keys: Iterable[ApiKey]) -> dict[str, Callable[[bytes], bytes]]:
    """How keys of other relays become digests: those ways that need no secret, of the schemes that are there."""
    schemes = {entry.scheme for key in keys for entry in key.hashes}
    return {"litellm-sha256": litellm_digest} if "litellm-sha256" in schemes else {}


def by_hash(keys: Iterable[ApiKey]) -> dict[bytes, tuple[ApiKey, KeyHash]]:
    """Keys by the bytes of each hash, with its entry."""
    return {bytes.fromhex(entry.sha256): (key, entry) for key in keys for entry in key.hashes}
