"""Run the code blocks of README.md and docs/guides/run-and-compare.md in order."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serving

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


def test_the_readme_works_as_written(tmp_path):
    with serving(tmp_path / "project") as server:
        root = server.project.root
        shorten_training(server.project)

        def run(command: list[str]) -> None:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"

        pages = [REPOSITORY / "README.md", REPOSITORY / "docs" / "guides" / "run-and-compare.md"]
        ran = 0
        for language, text in [block for page in pages for block in blocks(page)]:
            if language == "python":
                run([sys.executable, "-c", text])
                ran += 1
                continue
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if not words:
                    continue
                if words[0] == "make":
                    assert set(words[1:]) <= targets()
                elif words[:2] == ["vestal", "serve"]:
                    # On free ports: 8080 may be in use.
                    server.start(*words[2:], "--port", "0")
                    server.ready()
                else:
                    assert words[0] == "vestal", f"a command that this test cannot run: {line}"
                    run([sys.executable, "-m", *words])
                ran += 1
        assert ran == 9


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
