"""Scenario run: every scenario of a tree, and where a call does not end as tests.d expects.

Rule: pure; the same decisions as the daemon's (see dry_run). `relayd test` and the gate of a push read the same.
"""

from __future__ import annotations

from relayd.config.compile import Compiled
from relayd.config.model.scenario import Scenario, Scenarios
from relayd.config.problems.problem import Problem
from relayd.config.snapshot import Snapshot
from relayd.core.dry_run import DryRunOutcome, dry_run, failures
from relayd.noun import noun


@noun(kw_only=True)
class ScenarioResult:
    """One scenario. `problem`: what differs from what is expected; None when nothing does."""

    file: str
    line: int
    scenario: Scenario
    outcome: DryRunOutcome
    problem: Problem | None


def play(compiled: Compiled, snapshot: Snapshot) -> tuple[ScenarioResult, ...]:
    """Every scenario of a tree, in order."""
    results = []
    for file in compiled.scenarios:
        for number, scenario in enumerate(file.noun.scenario if isinstance(file.noun, Scenarios) else ()):
            outcome = dry_run(scenario, snapshot)
            place = file.document.related(("scenario", number, "name"), "")
            problem = None
            if wrong := failures(scenario, outcome):
                message = f"{scenario.name}: {'; '.join(wrong)}"
                problem = file.document.problem("E-SCENARIO", ("scenario", number, "name"), message)
            results.append(
                ScenarioResult(file=place.file, line=place.line, scenario=scenario, outcome=outcome, problem=problem)
            )
    return tuple(results)


def scenario_failures(compiled: Compiled, snapshot: Snapshot) -> tuple[Problem, ...]:
    """What differs from what tests.d expects."""
    return tuple(result.problem for result in play(compiled, snapshot) if result.problem)
