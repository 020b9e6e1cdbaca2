"""Good archives of plain torch-model-archiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from check_archives import STOCK_MODEL, Net, saved, torchscript

# TorchServe's image_classifier predicts the five best classes, so a model needs five.
ANIMALS = ("cat", "dog", "hen", "cow", "pig")


def model_archiver(folder: Path, name: str, *arguments: str | Path) -> Path:
    """The archive that the command torch-model-archiver creates."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            str(Path(sys.executable).with_name("torch-model-archiver")),
            *("--model-name", name, "--version", "1.0", "--export-path", str(folder)),
            *map(str, arguments),
        ],
        check=True,
        env={**os.environ, "TMPDIR": str(folder)},  # it deletes <tmp>/<name>
    )
    (made,) = (path for path in folder.iterdir() if path.name.startswith(f"{name}."))
    return made


def foreign_archives(folder: Path) -> dict[str, Path]:
    """Archives that TorchServe can serve; their inputs are images, or any body."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "net.py").write_text(STOCK_MODEL)
    (source / "net.pth").write_bytes(saved(Net().state_dict()))
    (source / "script.pt").write_bytes(torchscript(Net()))
    (source / "index_to_name.json").write_text(
        json.dumps({str(number): [f"n{number}", name] for number, name in enumerate(ANIMALS)})
    )
    (source / "config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    (source / "own.yaml").write_text("batchSize: 2\nmy_own: {size: 3}\n")
    (source / "length_handler.py").write_text(
        "import json\nimport length_tools\n\n\ndef handle(data, context):\n"
        "    return [json.dumps(length_tools.length(row)) for row in data] if data else None\n"
    )
    (source / "length_tools.py").write_text(
        'def length(row):\n    return len(row.get("body") or row.get("data"))\n'
    )
    (source / "mean_handler.py").write_text(
        "from ts.torch_handler.image_classifier import ImageClassifier\n\n\n"
        "class Mean(ImageClassifier):\n    topk = 1\n"
    )
    eager = ("--model-file", source / "net.py", "--serialized-file", source / "net.pth")
    one = ("--config-file", source / "config.yaml")
    script = ("--serialized-file", source / "script.pt")
    labels = ("--extra-files", source / "index_to_name.json")
    config = (*labels, "--config-file", source / "own.yaml")
    tools = ("--extra-files", source / "length_tools.py")
    made = {
        "eager": (*eager, *labels, *one, "--handler", "image_classifier"),
        "script": (*script, *labels, *one, "--handler", "image_classifier"),
        "module": (*tools, *one, "--handler", source / "length_handler.py"),
        "derived": (*script, *config, "--handler", source / "mean_handler.py"),
        "tar": (*script, *labels, "--handler", "image_classifier", "--archive-format", "tgz"),
        "entry": (*tools, "--handler", f"{source / 'length_handler'}:handle"),
    }
    return {
        name: model_archiver(folder / name, name, *arguments) for name, arguments in made.items()
    }
