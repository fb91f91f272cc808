"""Scenario rules: what is wrong with the scenarios of tests.d.

Rule: a mistake in tests.d is an error for `check` and never keeps the daemon from loading the tree: a slip in a test
must not hold up a revocation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from relayd.config.model.scenario import Scenarios
from relayd.config.model.structure import Finding, dotted
from relayd.config.model.values import quote
from relayd.config.problems.problem import Problem
from relayd.config.rules.cross_file import Parsed
from relayd.config.snapshot import KeyPath


def scenario_findings(noun: Scenarios) -> Iterator[Finding]:
    """What is wrong with the scenarios of a file by themselves."""
    seen: set[str] = set()
    for number, one in enumerate(noun.scenario):
        path: KeyPath = ("scenario", number)
        if one.name in seen:
            message = f"{dotted((*path, 'name'))}: {quote(one.name)} is already used"
            yield Finding(path=(*path, "name"), code="E-DUP-NAME", message=message)
        seen.add(one.name)
        if not one.model and one.endpoint in ("messages", "count_tokens", "openai"):
            message = f"{dotted(path)}: a call of {quote(one.endpoint)} needs `model`"
            yield Finding(path=path, code="E-SCENARIO", message=message, at="key")
        if one.address and not _is_address(one.address):
            message = f"{dotted((*path, 'address'))}: expected the address of a client, not {quote(one.address)}"
            yield Finding(path=(*path, "address"), code="E-SCENARIO", message=message)
        of_refusal = {"status": one.status, "text": one.text}
        of_service = {"accounts": one.accounts, "first": one.first, "sent_model": one.sent_model}
        for name, value in (of_refusal if one.expect == "allow" else of_service).items():
            if value:
                message = f"{dotted((*path, name))}: it has no meaning when expect is {quote(one.expect)}"
                yield Finding(path=(*path, name), code="E-SCENARIO", message=message)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def scenario_problems(files: Sequence[Parsed]) -> Iterator[Problem]:
    """Keys and accounts that scenarios name and the tree does not have."""
    keys = {file.id for file in files if file.kind == "key"}
    accounts = {file.id for file in files if file.kind == "account"}
    for file in files:
        for number, one in enumerate(file.noun.scenario if isinstance(file.noun, Scenarios) else ()):
            path: KeyPath = ("scenario", number)
            yield from _known(file, (*path, "key"), "key", [one.key], keys)
            for name in ("accounts", "first", "down"):
                yield from _known(file, (*path, name), "account", getattr(one, name), accounts)


def _known(file: Parsed, path: KeyPath, what: str, names: Iterable[str], known: set[str]) -> Iterator[Problem]:
    for name in names:
        if name not in known:
            message = f"{dotted(path)}: the tree has no {what} {quote(name)}"
            listed = ", ".join(sorted(known)[:12]) or "none"
            yield file.problem("E-REF", path, message, hint=f"it has: {listed}")
