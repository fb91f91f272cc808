"""The blocks of docs/clients.md, and how each is run.

A section of the page is a recipe. A fence with a path behind its language is a file, written first (```toml ~/x.toml);
one with `try=NAME` is run, with the program NAME of tests/live/programs; others are only shown. On the page
`http://relay:3000` and `sk-relay-...` stand for what a run has instead.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import attrs
from openai_programs import HERE, environment, javascript, packages, run

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
RELAY, KEY = "http://relay:3000", "sk-relay-..."
HOME = "~/"
_FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What the simulator says to "Hello", and what a program makes of the sample of a schema.
SAID = {"instructor": "name='example'", "curl": "You said:"}
INSTALLED_HERE = ("curl", "anthropic", "openai")


@attrs.frozen(kw_only=True)
class Recipe:
    """One section: the files it writes by path, and the blocks it runs, each as (language, text)."""

    title: str
    program: str
    files: dict[str, str]
    blocks: tuple[tuple[str, str], ...]


def recipes(page: str) -> list[Recipe]:
    """The sections of `page` that have something to run."""
    found = []
    for section in page.split("\n## ")[1:]:
        fences = _FENCE.findall(section)
        tried = [(language, what.removeprefix("try="), text) for language, what, text in fences if "try=" in what]
        if not tried:
            continue
        title, programs = section.split("\n", 1)[0], {program for _, program, _ in tried}
        assert len(programs) == 1, f"{title}: one program a section"
        found.append(
            Recipe(
                title=title,
                program=programs.pop(),
                files={what: text for _, what, text in fences if what.startswith(HOME)},
                blocks=tuple((language, text) for language, _, text in tried),
            )
        )
    return found


@attrs.frozen(kw_only=True)
class Program:
    """An installed program: where its commands lie, its interpreters, and the packages that scripts import."""

    commands: Path
    python: Path | None = None
    node: Path | None = None
    modules: Path | None = None


def installed(name: str) -> Program:
    """The program `name`, installed now unless it is."""
    if name in INSTALLED_HERE:
        return Program(commands=Path(sys.executable).parent, python=Path(sys.executable))
    if (HERE / "programs" / f"{name}.txt").exists():
        python = environment(name)
        return Program(commands=python.parent, python=python)
    got = javascript() if name == "openai-js" else packages(name)
    return Program(commands=got.modules / ".bin", node=got.node, modules=got.modules)


def performed(recipe: Recipe, program: Program, home: Path, url: str, key: str) -> str:
    """Run a recipe in the new directory `home`; all it printed. Raises: AssertionError, when a block fails."""

    def real(text: str) -> str:
        return text.replace(RELAY, url).replace(KEY, key)

    for path, text in recipe.files.items():
        file = home / path.removeprefix(HOME)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(real(text))
        file.chmod(0o700 if text.startswith("#!") else 0o600)
    work = home / "work"
    work.mkdir(parents=True)
    if program.modules:
        (work / "node_modules").symlink_to(program.modules)
    return "".join(_run(language, real(text), program, work) for language, text in recipe.blocks)


def _run(language: str, text: str, program: Program, work: Path) -> str:
    places = [
        str(program.commands),
        *([str(program.node.parent)] if program.node else []),
        "/usr/local/bin:/usr/bin:/bin",
    ]
    env = {"PATH": ":".join(places), "HOME": str(work.parent), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    script = work / f"block.{'mjs' if language == 'js' else language}"
    script.write_text(text)
    interpreter = {"sh": shutil.which("sh"), "python": program.python, "js": program.node}[language]
    return run([str(interpreter), *(["-e"] if language == "sh" else []), str(script)], env, cwd=work)
