"""Run the code blocks of README.md and docs/guides/run-and-compare.md in order."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Serving, serving

from vestal.model_folders import zoo
from vestal.project import Project

REPOSITORY = Path(__file__).parents[2]

ONE_EPOCH = """

from dataclasses import replace

recipe = replace(recipe, datasets={"digits": replace(recipe.datasets["digits"], epochs=1)})
"""


def shorten_training(project: Project) -> None:
    """Give the project an mnist that trains for one epoch instead of eight."""
    shutil.copytree(zoo() / "mnist", project.models / "mnist")
    with (project.models / "mnist" / "recipe.py").open("a", encoding="utf-8") as recipe:
        recipe.write(ONE_EPOCH)


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"```(sh|python)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the fragments of GitHub's links to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text("utf-8")
    rules = re.findall(r"^([a-z0-9 -]+):", text, re.MULTILINE)
    return {name for rule in rules for name in rule.split()}


def test_the_readme_works_as_written(tmp_path, cli):
    """Commands and Python run in this process, which has already imported torch."""
    pages = [REPOSITORY / "README.md", REPOSITORY / "docs" / "guides" / "run-and-compare.md"]
    with serving(tmp_path) as server:
        shorten_training(server.project)
        ran = 0
        for page in pages:
            for language, text in blocks(page):
                if language == "python":
                    exec(compile(text, page, "exec"), {"__name__": "__main__"})
                    ran += 1
                    continue
                for line in text.splitlines():
                    ran += run_line(line, server, cli)
        assert ran == 9


def run_line(line: str, server: Serving, cli: Callable[..., tuple[int, str, str]]) -> bool:
    """Run a line of a shell block; return whether it has a command."""
    words = shlex.split(line, comments=True)
    if not words:
        return False
    if words[0] == "make":
        assert set(words[1:]) <= targets()
    elif words[:2] == ["vestal", "serve"]:
        server.start(*words[2:], "--port", "0")  # 8080 may be in use
        server.ready()
    else:
        assert words[0] == "vestal", f"a command that this test cannot run: {line}"
        code, out, err = cli(*words[1:])
        assert code == 0, f"{line}\n{out}{err}"
    return True


@pytest.mark.parametrize(
    "page",
    ["README.md", *(str(page.relative_to(REPOSITORY)) for page in REPOSITORY.glob("docs/**/*.md"))],
)
def test_every_link_has_a_target(page):
    folder = (REPOSITORY / page).parent
    for target, anchor in re.findall(
        r"\]\(([^)#]*)(?:#([^)]+))?\)", (REPOSITORY / page).read_text("utf-8")
    ):
        if "reference/" in target:  # generated; `make docs` checks these
            continue
        linked = folder / target if target else REPOSITORY / page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"
