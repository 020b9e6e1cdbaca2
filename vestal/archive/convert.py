"""Weights turned into the format that an engine loads: `python -m vestal.archive.convert`.

It runs in a process of its own, so that the same weights give the same bytes in every folder: there
the model's modules have one name, hashes no seed, and TorchScript has compiled nothing before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vestal.children import end_with_parent, parents_pid
from vestal.errors import UsageError, VestalError
from vestal.inprocess.archive_process import python_path
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX

# The format that makes what an engine loads.
BY_ENGINE = {
    "eager": "state_dict",
    "torchscript": "torchscript",
    "exported": "exported",
    "onnx": "onnx",
}
PACKAGE = "vestal_model"


def artifact_for(run: Run, engine: str, folder: Path) -> Path:
    """The file that an engine loads: the run's own, or one made from its weights in `folder`.

    Raises:
        UsageError: no such engine.
        VestalError: the run has no weights that the engine's format can be made from.
    """
    if run.task == "text_generator":
        raise UsageError(f"text generation has no engine {engine!r}: it runs in transformers")
    if engine not in BY_ENGINE:
        raise UsageError(f"no engine {engine!r}: the engines are {', '.join(BY_ENGINE)}")
    for artifact in run.artifacts:
        if BY_SUFFIX.get(Path(artifact).suffix) == engine:
            return run.folder / artifact
    weights = [a for a in run.artifacts if BY_SUFFIX.get(Path(a).suffix) == "eager"]
    if not weights:
        raise VestalError(
            f"{run.folder} holds {', '.join(run.artifacts)}: the {engine} engine's format is made "
            "from weights by name (a state_dict or safetensors), which are not there"
        )
    shape = [str(side) for side in (2, *run.input_shape)]
    command = [sys.executable, "-m", __name__, str(run.folder), weights[0], BY_ENGINE[engine]]
    done = subprocess.run(
        [*command, str(folder.resolve()), *shape],
        env={
            **os.environ,
            **parents_pid(),
            "PYTHONPATH": python_path(),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",  # the run's folder stays as it is
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise VestalError(
            f"{weights[0]} of {run.folder} cannot be turned into what the {engine} engine loads: "
            f"{said[-1]}"
        )
    return folder / done.stdout.split()[-1]


def main(run: Path, weights: str, kind: str, folder: Path, shape: list[int]) -> None:
    """Prints the name of the file that it made, last."""
    import torch

    from vestal.weights.saving import save
    from vestal_handlers.engines import eager

    module = eager.build(run, PACKAGE)
    eager.fill(module, eager.read(run / weights), weights)
    print(*save(module.eval(), [kind], folder, torch.zeros(shape)))


if __name__ == "__main__":
    end_with_parent()
    _, run_, weights_, kind_, folder_, *shape_ = sys.argv
    main(Path(run_), weights_, kind_, Path(folder_), [int(side) for side in shape_])
