"""Runs the code blocks of a documentation page in order, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from serving import Serving

BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")


def run_page(page: Path, server: Serving, changes: Mapping[str, str] | None = None) -> str:
    """Run every block in the server's project and return what the commands printed.

    A block whose first line is a comment with a path is a file to write; other Python blocks and
    shell blocks are run. `vestal serve` is started on free ports; with --detach, the page stops it
    itself. Other languages (`console`, `json`) only show something. `changes`: texts of the page,
    and what takes their places.
    """
    printed, root = "", server.project.root
    content = page.read_text("utf-8")
    for old, new in (changes or {}).items():
        assert old in content
        content = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, content)
    for language, text in BLOCK.findall(content):
        if named := FILE.match(text):
            file = root / named[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text[named.end() :])
        elif language == "python":
            printed += _run([sys.executable, "-c", text], root)
        elif text.startswith("vestal serve --detach"):
            printed += _run(["sh", "-euc", text.replace("--detach", "--detach --port 0")], root)
        elif text.startswith("vestal serve"):
            server.start(*shlex.split(text)[2:], "--port", "0")
            server.ready()
        else:
            assert language == "sh", (
                f"{page}: a block that is neither a file nor a command:\n{text}"
            )
            printed += _run(["sh", "-euc", text], root)
    return printed


def _run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout
