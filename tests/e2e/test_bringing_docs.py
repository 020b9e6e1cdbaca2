"""The blocks of docs/guides/bring-your-weights.md, run in order as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from serving import serving, until

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "bring-your-weights.md"
SECONDS = 240  # until a MobileNet has warmed up, 16 pictures of 224 x 224 at once


def test_the_page_runs_as_written(tmp_path):
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 7
    with serving(tmp_path / "project") as server:
        root = server.project.root
        Image.new("RGB", (300, 280), "orange").save(root / "photo.png")

        def run(*command: str) -> str:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
            return done.stdout

        output = ""
        for language, text in blocks:
            if language == "python":  # its first line names the file
                place = root / text.splitlines()[0].removeprefix("# ")
                place.write_text(text.partition("\n")[2])
                if place.parent == root:
                    run(sys.executable, place.name)
                continue
            for line in text.splitlines():
                words = shlex.split(line)
                if words[:2] == ["vestal", "serve"]:
                    # On free ports: this machine's 8080 may be taken.
                    server.start(*words[2:], "--port", "0", "--timeout", str(SECONDS))
                    until(server.project.ready_file.exists, SECONDS, "the ready file")
                elif words[0] == "vestal":
                    output += run(sys.executable, "-m", *words)
                else:
                    run("sh", "-c", line)
    stored = {file.name for file in server.project.model_store.glob("*.mar")}
    assert stored == {"prices-1.0.mar", "pets-1.0.mar", "pets-1.1.mar"}
    assert "Weights: pets.pth.tar" in output
    assert re.search(r"photo\.png +(cat|dog|owl)", output)
