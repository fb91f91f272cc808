"""Source URL: which repository, branch and folder a node pulls its tree from.

Rule: pure, and strict: it becomes words of a git command, so what git or ssh might take for something else is refused
here. It is shown in status and logs, so no password stands in it.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from relayd.noun import noun

Scheme = Literal["ssh", "https", "file"]

DEFAULT_BRANCH = "main"
FORM = "git+ssh://git@HOST/PATH.git#BRANCH, git+https://HOST/PATH.git#BRANCH or git+file:///PATH.git#BRANCH"

_URL = re.compile(r"(?:git\+)?(ssh|https|file)://([^/#\s]*)(/[^#\s]+)")
_PLACE = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_PATH = re.compile(r"/[A-Za-z0-9._~%+@,=/ -]+")
# What git allows in a branch's name and a shell or a command line could not mistake. Source: git-check-ref-format(1).
_BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)|/\.|\.$|/$))[A-Za-z0-9_][A-Za-z0-9._/@+-]{0,199}")
_FOLDER = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._][A-Za-z0-9._ /+-]{0,499}")


@noun(kw_only=True)
class SourceUrl:
    """Where a tree is pulled from.

    Args:
        url: as git is given it.
        folder: of the tree in the repository, "config" say; "" for the top.
    """

    scheme: Scheme
    url: str
    branch: str = DEFAULT_BRANCH
    folder: str = ""

    def __str__(self) -> str:
        return f"git+{self.url}#{self.branch}" + (f":{self.folder}" if self.folder else "")


def parse_source(text: str) -> SourceUrl:
    """`git+ssh://git@host/repo.git#branch:folder`. Raises: ValueError, which says what is wrong."""
    address, _, rest = text.strip().partition("#")
    branch, _, folder = rest.partition(":")
    match = _URL.fullmatch(address)
    if match is None:
        raise ValueError(f"{_shown(address)}: not the address of a repository (write {FORM})")
    scheme, place, path = match[1], match[2], match[3]
    if urlsplit(f"x://{place}").password is not None:
        raise ValueError(
            f"{_shown(address)}: a password does not belong in it (RELAYD_SOURCE_KEY names a file with it)"
        )
    if bool(place) == (scheme == "file") or (place and not _PLACE.fullmatch(place)) or not _PATH.fullmatch(path):
        raise ValueError(f"{_shown(address)}: its host or path is not understood (write {FORM})")
    if branch and not _BRANCH.fullmatch(branch):
        raise ValueError(f"{branch[:80]!r}: not the name of a branch")
    folder = folder.strip("/")
    if folder and not _FOLDER.fullmatch(folder):
        raise ValueError(f"{folder[:80]!r}: not a folder in a repository")
    url = f"{scheme}://{place}{path}"
    match scheme:
        case "ssh" | "https" | "file":
            return SourceUrl(scheme=scheme, url=url, branch=branch or DEFAULT_BRANCH, folder=folder)
    raise AssertionError(scheme)


def _shown(address: str) -> str:
    """The address without what may be a password in it."""
    return repr(re.sub(r"(?<=://)[^/@]*@", "...@", address)[:120])
