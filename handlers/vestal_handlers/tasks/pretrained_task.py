"""The base of tasks on models of transformers: a request may give several inputs of any length.

Inputs of equal shapes are computed together. A task may also group inputs that are padded exactly,
so that a prediction does not depend on the other requests of its batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from vestal_handlers import engines
from vestal_handlers.base import BatchHandler
from vestal_handlers.engines.torch_module import ModuleEngine, check_precision
from vestal_handlers.errors import OUT_OF_TIME, HandlerError
from vestal_handlers.pretrained import load_config, load_model


@dataclass(frozen=True)
class ModelInputs:
    """The sample of one instance: the inputs of one or several rows, and what `encode` needs."""

    rows: Sequence[Mapping[str, Tensor]]
    context: Any = None


class PretrainedFolder(BatchHandler):
    """Loads the folder of a model of transformers.

    Attributes:
        auto_class: the class of transformers that chooses the architecture.
        served_output: the output that is served; None: all.
        model_config: config.json.
    """

    auto_class: ClassVar[str]
    served_output: ClassVar[str | None] = None

    def load_engine(self, artifact: Path) -> Any:
        self.model_config = load_config(self.model_dir)
        if artifact.suffix != ".safetensors":
            return engines.load(
                artifact,
                self.device,
                self.options.precision,
                self.options.engine,
                output=self.served_output,
                all_outputs=self.served_output is None,
            )
        check_precision("transformers", self.options.precision, self.device)
        module = load_model(artifact.parent, self.auto_class)
        return ModuleEngine(
            "transformers",
            module.to(self.device),
            self.device,
            self.options.precision,
            output=self.served_output,
            all_outputs=self.served_output is None,
            artifact=artifact.name,
            architecture=type(module).__name__,
        )


class PretrainedTask(PretrainedFolder):
    """Forwards inputs of any length; `encode` gets one output for each row."""

    all_outputs: ClassVar[bool] = True

    def forward(self, samples: Sequence[ModelInputs]) -> list[Any]:
        """Return the `head` of each row of each sample."""
        rows = [row for sample in samples for row in sample.rows]
        found: dict[int, Tensor] = {}
        for places in self.batches(rows):
            if time.monotonic() > self.deadline:
                raise HandlerError(OUT_OF_TIME)
            outputs = self.forward_rows([rows[place] for place in places])
            for place, output in zip(places, outputs, strict=True):
                found[place] = self.head(output, rows[place])
        heads = iter(found[place] for place in range(len(rows)))
        return [[next(heads) for _ in sample.rows] for sample in samples]

    def batches(self, rows: Sequence[Mapping[str, Tensor]]) -> list[list[int]]:
        """Return the places of the rows of each forward pass: rows of equal shapes."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[tuple((name, tensor.shape) for name, tensor in sorted(row.items()))] += [place]
        most = self.options.max_forward
        return [
            group[start : start + most]
            for group in groups.values()
            for start in range(0, len(group), most)
        ]

    def forward_rows(self, rows: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """Compute the outputs of the rows of one forward pass."""
        return super().forward(rows)

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """Choose or compute what `encode` needs of the outputs for one row."""
        return output["logits"]
