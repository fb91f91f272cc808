"""`relayd manifest`: lists what a tree consists of, for copies that take their time.

A tree that is copied file by file (rsync, scp, a slow mount) is a mixture for as long as that takes. With manifest.toml
in it, copied last or not, the daemon loads the tree only when every file is exactly what the manifest says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from relayd.cli.output import say
from relayd.cli.tree import add_directory, guarded
from relayd.config.atomic import replace_file
from relayd.config.source.git import GitError, commit_of
from relayd.config.source.provenance import write_manifest
from relayd.config.source.scan import MANIFEST
from relayd.config.source.tree import read_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument("--commit", metavar="NAME", help="the commit to name (default: HEAD, where there is git)")
    parser.add_argument("--write", action="store_true", help=f"write DIR/{MANIFEST} instead of printing it")
    parser.epilog = "exit status: 0 done, 1 the tree cannot be read, or the file cannot be written"


def main(args: argparse.Namespace) -> int:
    return guarded("manifest", manifest, args)


def manifest(args: argparse.Namespace) -> int:
    """Print or write the manifest."""
    directory: Path = args.directory or args.config
    text = write_manifest(read_files(directory), args.commit or _head(directory))
    if not args.write:
        sys.stdout.write(text)
        return 0
    replace_file(directory / MANIFEST, text.encode())
    say(f"wrote {directory / MANIFEST}")
    return 0


def _head(directory: Path) -> str:
    try:
        return commit_of(directory, "HEAD")
    except GitError:
        return ""
