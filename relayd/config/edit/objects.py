"""Objects: accounts and keys in the files of a tree, found by their id, and plans that edit one of them.

Rule: pure, on files that need not compile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.write import EditPlan, Files
from relayd.config.secrets.sealed_fields import objects

KINDS = {"accounts.d": "account", "keys.d": "key"}


def find_object(files: Files, folder: str, name: str) -> str:
    """The file of an account or key. Raises: LookupError that says which there are."""
    found = {identity: file for file, identity, _ in objects(files, folder)}
    if name not in found:
        there = ", ".join(sorted(found)[:20]) or "none"
        raise LookupError(f"there is no {KINDS[folder]} {name} (known: {there})")
    return found[name]


def refuse_taken(files: Files, folder: str, name: str) -> None:
    """Raises: EditError when an object of that id exists, in whatever sub-directory."""
    for file, identity, _ in objects(files, folder):
        if identity == name:
            raise EditError(f"{file} exists already (choose another name)")


def edit_file(path: str, edit: Callable[[str], str]) -> EditPlan:
    """A plan that edits one file of the tree."""

    def plan(files: Files) -> Mapping[str, bytes | None]:
        return {path: edited(files, path, edit)}

    return plan


def edited(files: Files, path: str, edit: Callable[[str], str]) -> bytes:
    """A file of the tree after an edit; one that is not there is empty. Raises: EditError, naming the file."""
    try:
        return edit(files.get(path, b"").decode()).encode()
    except (EditError, UnicodeDecodeError) as error:
        why = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise EditError(why if why.startswith(f"{path}: ") else f"{path}: {why}") from None


def edit_object(folder: str, name: str, edit: Callable[[str], str]) -> EditPlan:
    """A plan that edits the file of one account or key. Raises, when it runs: LookupError."""
    return lambda files: edit_file(find_object(files, folder, name), edit)(files)
