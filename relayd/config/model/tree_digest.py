"""Tree digest: the SHA-256 over the files of a tree that are config; its first digits are the revision.

Rule: scenarios and stray files do not count. A tree that could not be read whole is a different one, so problems of
reading count too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from relayd.config.model.document import FileKind, classify
from relayd.config.problems.problem import Problem, is_error

CONFIG_KINDS: frozenset[FileKind] = frozenset({"relay", "account", "key", "deny", "prices"})
REVISION_DIGITS = 12


def tree_digest(files: Mapping[str, bytes], problems: Iterable[Problem] = ()) -> str:
    """The digest of a tree, 64 hex digits. `problems`: of reading the files."""
    config = (
        (path, hashlib.sha256(data).digest()) for path, data in sorted(files.items()) if classify(path) in CONFIG_KINDS
    )
    return _digest(config, (str(problem) for problem in problems if is_error(problem)))


def revision(files: Iterable[tuple[str, bytes]]) -> str:
    """The start of the digest of a tree that was read whole. `files`: path and SHA-256 of each config file, sorted."""
    return _digest(files, ())[:REVISION_DIGITS]


def _digest(files: Iterable[tuple[str, bytes]], problems: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path, content in files:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0" + content)
    for text in problems:
        digest.update(b"\0\0" + text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
