"""Edits of accounts that a person wants: fields in, a TreeEdit out.

Rule: pure. A credential is sealed to the recipients of the tree before it is anywhere else; it is in no message and no
command.
"""

from __future__ import annotations

import shlex

from relayd.config.edit.edits import set_enabled, set_sealed
from relayd.config.edit.objects import edit_object, edited, find_object, refuse_taken
from relayd.config.edit.removal import removal
from relayd.config.edit.toml_edit import EditError, Value, render_document
from relayd.config.edit.tree_edit import TreeEdit
from relayd.config.edit.wanted import Fields, count_of, given, id_of, set_wanted, text_of, words_of
from relayd.config.edit.write import EditPlan, Files
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS, OAUTH
from relayd.config.secrets.credential import why_unusable
from relayd.config.secrets.recipients import active_keys
from relayd.config.secrets.seal import seal
from relayd.config.secrets.sealed_fields import account_place, parsed, recipients_of
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import KeyPath

SETTINGS = ("name", "email", "groups", "models", "priority", "weight", "max_concurrency", "base_url")
NO_RECIPIENT = (
    "relay.toml lists no recipient to seal for (relayd secret keygen FILE, then relayd secret recipients add)"
)


def new_account(fields: Fields, secret: Secret) -> TreeEdit:
    """An account's file, with its credential sealed. Raises: EditError."""
    name, kind = id_of(fields), fields.get("kind", "")
    if kind not in ACCOUNT_KINDS:
        raise EditError(f"kind: {kind[:40]!r} is not a kind of account ({', '.join(ACCOUNT_KINDS)})")
    settings = given(_settings(fields))
    pace = given({"requests_per_minute": count_of(fields, "requests_per_minute")})
    path = f"accounts.d/{name}.toml"

    def plan(files: Files) -> dict[str, bytes | None]:
        refuse_taken(files, "accounts.d", name)
        text = render_document({"kind": kind, **settings}, {"pace": pace})
        if not ACCOUNT_KINDS[kind].has_credential:
            return {path: text.encode()}
        return {path: _sealed({**files, path: text.encode()}, name, secret)}

    options: list[str] = []
    for one, value in {**settings, **pace}.items():
        shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        options += [f"--{one.replace('_', '-')}", shown]
    words = shlex.join(["relayd", "account", "add", name, "--kind", kind, *options])
    if ACCOUNT_KINDS[kind].has_credential:
        words += " < credential.txt"
    return TreeEdit(
        what="account.new", subject=name, message=f"account {name}: new, of kind {kind}", command=words, plan=plan
    )


def change_account(name: str, fields: Fields, secret: Secret) -> TreeEdit:
    """An account's settings as the fields say; an empty one takes the setting out, no secret keeps the credential.

    Raises: EditError.
    """
    wanted: dict[KeyPath, Value | None] = {(one,): value for one, value in _settings(fields).items()}
    wanted["pace", "requests_per_minute"] = count_of(fields, "requests_per_minute")

    def plan(files: Files) -> dict[str, bytes | None]:
        path = find_object(files, "accounts.d", name)
        changed: bytes = edited(files, path, lambda text: set_wanted(text, wanted))
        return {path: _sealed({**files, path: changed}, name, secret) if secret.reveal() else changed}

    return TreeEdit(
        what="account.change", subject=name, message=f"account {name}: other settings", command="", plan=plan
    )


def seal_account(name: str, secret: Secret, *, login: bool = False) -> TreeEdit:
    """Another credential. With `login` tokens of a sign-in, for which an account of that kind is made if need be."""
    path = f"accounts.d/{name}.toml"

    def plan(files: Files) -> dict[str, bytes | None]:
        try:
            file = find_object(files, "accounts.d", name)
            kind = parsed(files[file]).get("kind")
            if login and kind != OAUTH.name:
                raise EditError(f"account {name} is of kind {kind}, but signing in is for kind {OAUTH.name}")
            return {file: _sealed(files, name, secret)}
        except LookupError:
            if not login:
                raise
            return {path: _sealed({**files, path: f'kind = "{OAUTH.name}"\n'.encode()}, name, secret)}

    verb, rest = ("login", "") if login else ("seal", " < credential.txt")
    return _simple(verb, name, plan, rest=rest)


def switch_account(name: str, enabled: bool) -> TreeEdit:
    """Take an account out of service, or back."""
    word = "enable" if enabled else "disable"
    return _simple(word, name, edit_object("accounts.d", name, lambda text: set_enabled(text, enabled)))


def delete_account(name: str) -> TreeEdit:
    """Remove an account's file, the keys that no other account could serve, and the scenarios that name any of them."""

    def plan(files: Files) -> dict[str, bytes | None]:
        find_object(files, "accounts.d", name)
        return dict(removal(files, accounts=[name]).changes)

    return _simple("delete", name, plan, rest=" --yes --with-dependents")


def _sealed(files: Files, name: str, secret: Secret) -> bytes:
    """The account's file with the secret sealed into it. Raises: EditError, SealError."""
    path, binding = account_place(files, name)
    kind = str(parsed(files[path]).get("kind", ""))
    if kind in ACCOUNT_KINDS and not ACCOUNT_KINDS[kind].has_credential:
        raise EditError(f"account {name} is a {kind} and has no credential")
    if problem := why_unusable(secret, kind):
        raise EditError(f"credential: {problem}")
    keys = active_keys(recipients_of(files))
    if not keys:
        raise EditError(NO_RECIPIENT)
    return edited(files, path, lambda text: set_sealed(text, seal(secret, binding, keys)))


def _settings(fields: Fields) -> dict[str, Value | None]:
    return {
        "name": text_of(fields, "name"),
        "email": text_of(fields, "email"),
        "groups": words_of(fields, "groups"),
        "models": words_of(fields, "models"),
        "priority": count_of(fields, "priority"),
        "weight": count_of(fields, "weight"),
        "max_concurrency": count_of(fields, "max_concurrency"),
        "base_url": text_of(fields, "base_url"),
    }


def _simple(word: str, name: str, plan: EditPlan, rest: str = "") -> TreeEdit:
    return TreeEdit(
        what=f"account.{word}",
        subject=name,
        message=f"account {name}: {word}",
        command=shlex.join(["relayd", "account", word, name]) + rest,
        plan=plan,
    )
