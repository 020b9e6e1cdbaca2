"""The files of a run beside its weights, whether trained here or brought."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vestal import runs
from vestal.models import support_files
from vestal.recipes.request_body import body_of


def write_support(
    model_folder: Path, folder: Path, labels: Any, transforms: str = "transforms"
) -> list[str]:
    """Copies into a run what travels beside the weights: code, labels, transforms."""
    files = support_files(model_folder, transforms)
    for target, source in files.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / target)
    support = list(files)
    if labels:
        names = {str(index): label for index, label in enumerate(labels)}
        (folder / runs.LABELS).write_text(
            json.dumps(names, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        support.append(runs.LABELS)
    return support


def write_sample(task: str, given: Any, folder: Path) -> None:
    """Keeps one input as `sample/input.*`, as a caller would send it."""
    body = body_of(task, given)
    place = folder / runs.SAMPLE
    place.mkdir(exist_ok=True)
    (place / f"input{body.suffix}").write_bytes(body.content)


def versions() -> dict[str, str]:
    """Of what makes artifacts."""
    return {name: version(name) for name in ("torch", "torchvision")}
