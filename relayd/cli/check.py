"""`relayd check`: is the tree sound? The same code as the daemon's, offline and without side effects.

Rule: without --env the report depends on the bytes of the tree, and on which places the environment says the nodes
permit (RELAYD_CREDENTIALS, RELAYD_ORIGINS, RELAYD_LOG_DIR): no clock, no network, no secret, no file but the tree's,
and nothing is written. --base asks git for another commit; --env asks this machine, and says so. Whether the clone's
hook is on is no part of the report.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from relayd.cli.first_run import hook_is_off
from relayd.cli.output import add_format, counted, print_report, say
from relayd.cli.tree import UNSTABLE, Stop, add_directory, add_replay, at_revision, folder_of, read_steadily
from relayd.config.changes import Changes
from relayd.config.compile import Compiled, compile_tree
from relayd.config.diff import diff
from relayd.config.environment import environment_problems, place_problems
from relayd.config.guard import held
from relayd.config.problems.codes import explanations
from relayd.config.problems.problem import Problem, in_order
from relayd.config.problems.report import as_dict, as_github, as_markdown, as_sarif, as_text, fenced, totals
from relayd.config.source.git import GitError
from relayd.config.source.tree import Tree, Unstable
from relayd.noun import noun

if TYPE_CHECKING:
    from relayd.cli.replay import ReplayReport

OK, ERRORS, USAGE, DENIED = 0, 1, 2, 3


@noun(kw_only=True)
class CheckPlan:
    """What the tree changes against another commit.

    Args:
        base: that commit.
        changes: None when one of the two does not compile; `why` says which.
        held: the guard's reasons.
        replay: what past calls would say to it, where there are some.
    """

    base: str
    changes: Changes | None
    why: str = ""
    held: tuple[str, ...] = ()
    replay: ReplayReport | None = None


@noun(kw_only=True)
class Checked:
    """Everything that a report says.

    Args:
        problems: of the tree, without those that --select and --ignore leave out.
        here: problems of this machine (--env); None when it was not asked.
        folder: of the tree in its repository, "config/" or "".
    """

    tree: Tree
    compiled: Compiled
    problems: tuple[Problem, ...]
    plan: CheckPlan | None = None
    here: tuple[Problem, ...] | None = None
    folder: str = ""

    @property
    def every(self) -> tuple[Problem, ...]:
        """The problems of the tree and of this machine."""
        return (*self.problems, *(self.here or ()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_format(parser)
    parser.add_argument("--deny-warnings", action="store_true", help="exit with 3 when there are warnings")
    parser.add_argument(
        "--base", metavar="REV", help="also say what changes since that commit, and whether it would be held"
    )
    add_replay(parser)
    parser.add_argument(
        "--env", action="store_true", help="also check this machine: the files that are named, identities, secrets"
    )
    parser.add_argument("--identity", metavar="FILE", help="for --env: the identity file (RELAYD_IDENTITY)")
    what = "warnings and notes with these codes (or beginnings of codes), separated by commas"
    parser.add_argument("--select", metavar="CODES", action="append", default=[], help=f"show only {what}")
    parser.add_argument("--ignore", metavar="CODES", action="append", default=[], help=f"leave out {what}")
    parser.add_argument(
        "--explain",
        metavar="CODE",
        help="say what a problem's code means (or all codes with that beginning), and do nothing else",
    )
    parser.epilog = "exit status: 0 sound, 1 errors, 2 usage, 3 warnings with --deny-warnings, 4 unstable tree"


def main(args: argparse.Namespace) -> int:
    if args.explain:
        return explain(args.explain)
    directory = args.directory or args.config
    chosen, ignored = _codes(args.select), _codes(args.ignore)
    if wrong := _bad_code([*chosen, *ignored], ignored):
        say(f"relayd check: {wrong}")
        return USAGE
    if args.replay and args.base is None:
        say("relayd check: --replay: needs --base, for it says what the change would have done")
        return USAGE
    tree = read_steadily(directory)
    if isinstance(tree, Unstable):
        say(f"relayd check: the tree does not hold still: {tree.reason}")
        return UNSTABLE
    try:
        checked = check(directory, tree, args)
    except GitError as error:
        say(f"relayd check: --base {args.base}: {error}")
        return USAGE
    except (Stop, OSError) as error:
        say(f"relayd check: --replay: {error}")
        return USAGE
    checked = attrs.evolve(checked, problems=_chosen(checked.problems, chosen, ignored))
    print_report(report(checked, args.format))
    if hook_is_off(directory):
        say("note: this clone's pre-commit hook is off (git config core.hooksPath .githooks)")
    return verdict(checked, deny_warnings=args.deny_warnings)


def check(directory: Path, tree: Tree, args: argparse.Namespace) -> Checked:
    """Everything that was asked for. Raises: GitError."""
    compiled = compile_tree(tree.files, reading=tree.problems)
    problems = list(compiled.problems)
    if compiled.snapshot is not None:
        problems += place_problems(tree.files, compiled.snapshot, os.environ)
    plan = against(directory, compiled, args.base, args.replay) if args.base is not None else None
    if plan and plan.held:
        message = f"the daemon would hold this change: {'; '.join(plan.held)}"
        hint = f"if it is meant: relayd reload --accept {tree.digest[:12]}"
        problems.append(Problem(code="W-HELD", file="", message=message, hint=hint))
    here = None
    if args.env and compiled.snapshot is not None:
        found = environment_problems(tree.files, compiled.snapshot, directory, args.identity, os.environ)
        here = in_order(found)
    return Checked(
        tree=tree,
        compiled=compiled,
        problems=in_order(problems),
        plan=plan,
        here=here,
        folder=folder_of(directory),
    )


def against(directory: Path, compiled: Compiled, base: str, logs: Sequence[str] = ()) -> CheckPlan:
    """What a tree changes since a commit, and would have done to the calls of some logs.

    Raises: GitError; Stop and OSError for a log.
    """
    if base and not base.strip("0"):  # what CI names as the commit before the first one of a branch
        return CheckPlan(base=base, changes=None, why="there was no commit before")
    commit, files = at_revision(directory, base)
    if not files:
        return CheckPlan(base=commit, changes=None, why="there was no tree in that commit")
    before = compile_tree(files).snapshot
    if before is None or compiled.snapshot is None:
        which = f"the tree at {commit[:12]}" if before is None else "the tree"
        return CheckPlan(base=commit, changes=None, why=f"{which} does not compile")
    changes = diff(before, compiled.snapshot)
    replay = None
    if logs:
        from relayd.cli.replay import ReplayReport, replay_files  # much of core comes along

        replay = ReplayReport(found=replay_files(logs, compiled.snapshot, before), base=commit[:12])
    return CheckPlan(base=commit, changes=changes, held=held(before, compiled.snapshot, changes), replay=replay)


def explain(code: str) -> int:
    """Print the paragraph of a code, or of each code with that beginning."""
    found = [known for known in explanations() if known == code.upper()] or [
        known for known in explanations() if known.startswith(code.upper())
    ]
    if not found:
        close = difflib.get_close_matches(code.upper(), explanations(), 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`--explain E`, W or N shows all that begin with it"
        say(f"relayd check: no such code: {code} ({hint})")
        return USAGE
    print("\n\n".join(f"{known}\n\n{textwrap.fill(explanations()[known], 100)}" for known in found))
    return OK


def verdict(checked: Checked, *, deny_warnings: bool) -> int:
    """The exit status."""
    severities = {problem.severity for problem in checked.every}
    if "error" in severities or not checked.compiled.sound:
        return ERRORS
    return DENIED if "warning" in severities and deny_warnings else OK


# --- which problems are shown ----------------------------------------------------------------------------------------


def _codes(options: Iterable[str]) -> list[str]:
    return [code.strip().upper() for option in options for code in option.split(",") if code.strip()]


def _bad_code(codes: Sequence[str], ignored: Sequence[str]) -> str:
    """Why a list of codes cannot be obeyed; "" when it can."""
    for code in codes:
        if not any(known.startswith(code) for known in explanations()):
            return f"no code begins with {code} (`relayd check --explain CODE` explains one)"
    if error := next((code for code in ignored if code.startswith("E")), ""):
        return f"{error}: an error cannot be ignored, because the daemon would not load the tree"
    return ""


def _chosen(problems: Iterable[Problem], chosen: Sequence[str], ignored: Sequence[str]) -> tuple[Problem, ...]:
    """Errors, and those others that were asked for."""
    return tuple(
        problem
        for problem in problems
        if problem.severity == "error"
        or (
            (not chosen or problem.code.startswith(tuple(chosen)))
            and not (ignored and problem.code.startswith(tuple(ignored)))
        )
    )


# --- reports ---------------------------------------------------------------------------------------------------------


def report(checked: Checked, form: str) -> str:
    """The whole report in one of the forms."""
    match form:
        case "json":
            return json.dumps(_as_json(checked), indent=2) + "\n"
        case "sarif":
            return as_sarif(checked.every, checked.folder)
        case "github":
            return as_github(checked.every, checked.folder) + _notice(checked.plan) + summary(checked) + "\n"
        case "markdown":
            return _as_markdown(checked)
    return as_text(checked.problems) + _here(checked.here) + _plan(checked.plan) + summary(checked) + "\n"


def summary(checked: Checked) -> str:
    """One line: what was checked, and the result."""
    compiled = checked.compiled
    counts = [counted(compiled.files, "file"), counted(compiled.accounts, "account"), counted(compiled.keys, "key")]
    more = f" (and {compiled.omitted} more)" if compiled.omitted else ""
    if compiled.acknowledged:
        more += f"; {counted(len(compiled.acknowledged), 'warning')} acknowledged in [check] allow"
    return f"checked {', '.join(counts)}: revision {compiled.revision}, {totals(checked.every)}{more}"


def _here(problems: tuple[Problem, ...] | None) -> str:
    if problems is None:
        return ""
    return "on this machine:\n" + as_text(problems) if problems else "on this machine: nothing is missing\n"


def _plan(plan: CheckPlan | None) -> str:
    if plan is None:
        return ""
    if plan.changes is None:
        return f"changes since {plan.base[:12]}: unknown, {plan.why}\n"
    return _changes(plan) + (plan.replay.as_text() if plan.replay else "")


def _changes(plan: CheckPlan) -> str:
    if plan.changes is None or plan.changes.empty:
        return f"changes since {plan.base[:12]}: none\n"
    return f"changes since {plan.base[:12]}:\n" + textwrap.indent(plan.changes.as_text(), "  ")


def _as_markdown(checked: Checked) -> str:
    """A comment on a pull request: the verdict, the problems, what changes, and what past calls say to that."""
    plan, parts = checked.plan, [f"**{summary(checked)}**\n"]
    parts.append(as_markdown(checked.every))
    if plan is not None and plan.changes is not None and not plan.changes.empty:
        parts += [f"Changes since `{plan.base[:12]}`:\n", fenced(plan.changes.as_text(), "diff")]
    elif plan is not None:
        parts.append(_plan(plan) if plan.changes is None else _changes(plan))
    if plan is not None and plan.replay is not None:
        parts.append(plan.replay.as_markdown())
    return "\n".join(part for part in parts if part)


def _notice(plan: CheckPlan | None) -> str:
    """The plan as a notice of a workflow."""
    if plan is None:
        return ""
    text = _plan(plan).rstrip().replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::notice title=relayd plan::{text}\n"


def _as_json(checked: Checked) -> dict[str, Any]:
    compiled = checked.compiled
    severities = [problem.severity for problem in checked.every]
    result: dict[str, Any] = {
        "version": 1,
        "ok": verdict(checked, deny_warnings=False) == OK,
        "revision": compiled.revision,
        "digest": checked.tree.digest,
        "files": compiled.files,
        "accounts": compiled.accounts,
        "keys": compiled.keys,
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "notes": severities.count("note"),
        "omitted": compiled.omitted,
        "problems": [as_dict(problem) for problem in checked.problems],
        "acknowledged": [{**as_dict(one.problem), "why": one.why} for one in compiled.acknowledged],
    }
    if checked.here is not None:
        result["environment"] = [as_dict(problem) for problem in checked.here]
    if checked.plan is not None:
        result["plan"] = _plan_as_json(checked.plan)
    return result


def _plan_as_json(plan: CheckPlan) -> dict[str, Any]:
    if plan.changes is None:
        return {"base": plan.base, "error": plan.why}
    replay = {"replay": plan.replay.as_json()} if plan.replay else {}
    return {"base": plan.base, **plan.changes.as_json(), "held": list(plan.held), **replay}
