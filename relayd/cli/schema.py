"""`relayd schema`: what may stand in the files of a tree, for editors (JSON Schema) and for people (a table)."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path

import attrs

from relayd.cli.output import add_json, print_json, say
from relayd.config.model.json_schema import KINDS, KeyRow, json_schema, json_schema_text, rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", metavar="KIND", nargs="?", choices=tuple(KINDS), help=f"one of {', '.join(KINDS)} (default: all)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="write KIND.json files into this directory")
    parser.add_argument("--table", action="store_true", help="list every key with type, default and reload class")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    kinds = [args.kind] if args.kind else list(KINDS)
    if args.table:
        return print_keys(kinds, as_json=args.json)
    if args.out is not None:
        return write_schemas(kinds, args.out)
    if args.kind:
        sys.stdout.write(json_schema_text(args.kind))
    else:
        print_json({kind: json_schema(kind) for kind in kinds})
    return 0


def write_schemas(kinds: list[str], folder: Path) -> int:
    """One file for each kind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            (folder / f"{kind}.json").write_text(json_schema_text(kind), encoding="utf-8")
    except OSError as error:
        say(f"relayd schema: {error.filename}: {(error.strerror or 'failed').lower()}")
        return 1
    say(f"wrote {', '.join(f'{kind}.json' for kind in kinds)} to {folder}")
    return 0


def print_keys(kinds: list[str], *, as_json: bool) -> int:
    """Every key, for people or as JSON."""
    if as_json:
        print_json({kind: [attrs.asdict(row) for row in rows(kind)] for kind in kinds})
        return 0
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    for number, kind in enumerate(kinds):
        print(("\n" if number else "") + KINDS[kind][1] + "\n")
        for row in rows(kind):
            print(entry(row, width))
    return 0


def entry(row: KeyRow, width: int) -> str:
    """One key on its own line, what it means below."""
    default = f", default {row.default}" if row.default not in ("", "required") else f", {row.default}".rstrip(", ")
    head = f"  {row.key}  ({row.type}{default}; {row.reload})"
    return head + "\n" + textwrap.fill(row.doc, width, initial_indent="      ", subsequent_indent="      ")
