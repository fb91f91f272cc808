"""docs/clients.md: the blocks of the page are run as they stand, against the demo tree.

Here those of the small programs that other tests install as well; `python tests/live/programs` runs all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client_page import INSTALLED_HERE, PAGE, SAID, Recipe, installed, performed, recipes
from daemon import Daemon, running
from demo_tree import DEMO_KEY, copied
from openai_programs import HERE

RECIPES = recipes(PAGE.read_text())
SMALL = {*INSTALLED_HERE, "openai-js", "llm", "langchain"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(copied(tmp_path_factory.mktemp("demo"))) as daemon:
        yield daemon


@pytest.mark.parametrize("recipe", [one for one in RECIPES if one.program in SMALL], ids=lambda one: one.program)
def test_a_block_does_what_the_page_says(demo: Daemon, recipe: Recipe, tmp_path: Path) -> None:
    said = performed(recipe, installed(recipe.program), tmp_path / "home", demo.url, DEMO_KEY)
    assert SAID.get(recipe.program, "You said:") in said


def test_every_program_of_the_page_can_be_installed_and_every_small_one_is_tried() -> None:
    named = {recipe.program for recipe in RECIPES}
    pinned = {path.stem for path in (HERE / "programs").glob("*.txt")} | {
        path.stem for path in (HERE / "programs").glob("*.json")
    }
    assert named - {*INSTALLED_HERE, "openai-js"} == pinned - {"node"}
    assert named >= SMALL


def test_files_blocks_and_what_is_only_shown_are_told_apart() -> None:
    page = (
        "# P\n\n## One\n```toml ~/.a/b.toml\nx = 1\n```\n```sh\nshown\n```\n```sh try=p\nrun\n```\n\n## Two\nno block\n"
    )
    (recipe,) = recipes(page)
    assert recipe == Recipe(title="One", program="p", files={"~/.a/b.toml": "x = 1\n"}, blocks=(("sh", "run\n"),))
