"""Sealed-value rules: the sealed values of a tree, checked by somebody who cannot open them.

Rule: pure, no key and no cryptography: form, checksum, the place that a value says it was sealed for, and for whom. A
right tag is not a proof; only the daemon, which opens the value, knows. What can be seen here is what goes wrong in
practice: a cut line, a renamed account, a changed base_url, a recipient that was added and not resealed for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relayd.config.model.structure import dotted
from relayd.config.problems.problem import Problem
from relayd.config.rules.cross_file import Parsed
from relayd.config.secrets.binding import (
    ALERT_FIELDS,
    Binding,
    alert_binding,
    credential_binding,
    crs_binding,
    totp_binding,
)
from relayd.config.secrets.recipients import SealError, check_recipients, parse_public
from relayd.config.secrets.seal import inspect
from relayd.config.snapshot import Account, KeyPath, Recipient, Relay


def sealed_value_problems(files: Sequence[Parsed]) -> Iterator[Problem]:
    """Everything that can be seen to be wrong. Says nothing while relay.toml is not understood."""
    file = next((file for file in files if isinstance(file.noun, Relay)), None)
    if file is None:
        return
    relay: Relay = file.noun
    recipients = relay.secrets.recipients
    yield from _recipients(file, recipients)
    for place in files:
        if isinstance(place.noun, Account) and place.noun.credential.sealed:
            yield from _credential(place, relay)
    if relay.secrets.crs_encryption_key:
        place_of_key: KeyPath = ("secrets", "crs_encryption_key")
        binding = crs_binding(relay.realm)
        yield from _value(file, place_of_key, relay.secrets.crs_encryption_key, binding, recipients)
    for number, user in enumerate(relay.admin.users):
        if user.totp:
            path: KeyPath = ("admin", "users", number, "totp")
            yield from _value(file, path, user.totp, totp_binding(relay.realm, user.name), recipients)
    for name, alert in relay.alerts.items():
        for field in ALERT_FIELDS:
            if value := getattr(alert, field):
                binding = alert_binding(relay.realm, name, field)
                yield from _value(file, ("alerts", name, field), value, binding, recipients)


def _recipients(file: Parsed, recipients: Sequence[Recipient]) -> Iterator[Problem]:
    for number, recipient in enumerate(recipients):
        try:
            parse_public(recipient.public)
        except SealError as error:
            path: KeyPath = ("secrets", "recipients", number, "public")
            yield file.problem(error.code, path, f"{dotted(path)}: {error}")
    for finding in check_recipients(recipients):
        if finding.code == "W-RECIPIENT-MIXED":  # the others are said above, or where relay.toml is judged by itself
            yield file.problem(finding.code, ("secrets", "recipients"), f"secrets.recipients: {finding.message}")


def _credential(file: Parsed, relay: Relay) -> Iterator[Problem]:
    account: Account = file.noun
    try:
        binding = credential_binding(account, relay)
    except SealError as error:
        yield file.problem(error.code, ("base_url",), f"base_url: {error}")
        return
    yield from _value(file, ("credential", "sealed"), account.credential.sealed, binding, relay.secrets.recipients)


def _value(
    file: Parsed, path: KeyPath, value: str, binding: Binding, recipients: Sequence[Recipient]
) -> Iterator[Problem]:
    for finding in inspect(value, binding, recipients):
        # Not an error of the tree: while a new recipient is on its way, every node that had the value can open it.
        code = finding.code if finding.code != "E-SEAL-RECIPIENT-MISSING" else "W-SEAL-RECIPIENT-MISSING"
        yield file.problem(code, path, f"{dotted(path)}: {finding.message}")
