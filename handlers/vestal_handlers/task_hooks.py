"""The methods that a task overrides, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestal_handlers import engines
from vestal_handlers.base_handler import BaseHandler
from vestal_handlers.engines.tensors import map_tensors, stack, unstack
from vestal_handlers.errors import InputError
from vestal_handlers.options import OptionError, Options
from vestal_handlers.requests.request import InferenceRequest, Instance


class TaskHooks(BaseHandler):  # type: ignore[misc]
    """Methods of a task: `decode`, `encode` and `example_input` are required, the others optional.

    Attributes:
        options_type: the dataclass of the options under `handler:` in model-config.yaml.
        rows_are_instances: whether each item of a JSON array of arrays or objects is an instance.
        json_bodies: whether every body is parsed as JSON, whatever its content type.
        input_field: the field for `inputs` of `{"inputs": ..., "parameters": {...}}`, the form of
            Hugging Face's inference API; None: this form is not read.
        all_outputs: whether `encode` gets every output of the model instead of one.
    """

    options_type: ClassVar[type[Options]] = Options
    rows_are_instances: ClassVar[bool] = False
    json_bodies: ClassVar[bool] = False
    input_field: ClassVar[str | None] = None
    all_outputs: ClassVar[bool] = False
    options: Any
    name: str

    def load_engine(self, artifact: Path) -> Any:
        """Load the engine, which `forward` calls."""
        options = self.options
        if self.all_outputs and options.output is not None:
            raise OptionError(
                f"handler.output in model-config.yaml is {options.output!r}, but this task needs "
                "all outputs of the model; remove the option"
            )
        return engines.load(
            artifact,
            self.device,
            options.precision,
            options.engine,
            channels_last=options.channels_last,
            output=options.output,
            all_outputs=self.all_outputs,
        )

    def setup(self) -> None:
        """Load what the task needs in addition to the engine, such as labels and transforms."""

    def example_input(self) -> Any:
        """A sample for the warm-up: a tensor, or a dict of tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define example_input()")

    def check_request(self, request: InferenceRequest) -> None:
        """Check the size of a request before it is decoded.

        Raises:
            InputError: the error of the whole request. To refuse an instance, set its `error`.
        """
        count, most = len(request.instances), self.options.max_explained
        if request.has_flag("explain") and count > most:
            raise InputError(413, f"{count} explanations, at most {most} (handler.max_explained)")

    def decode(self, instance: Instance) -> Any:
        """Decode `instance.payload` (bytes, str or a JSON value) to a sample.

        Raises:
            InputError: the status and the message of this instance's error.
        """
        raise NotImplementedError(f"{type(self).__name__} must define decode()")

    def forward(self, samples: Sequence[Any]) -> Sequence[Any]:
        """Compute one output per sample, on the CPU, in one forward pass.

        Samples are tensors, or dicts of tensors by the names of the model's inputs. All samples of
        a batch must have the same shapes, because nothing is padded. An output is what `encode`
        gets, or a `RequestFailure`: the error of that instance.
        """
        batch = stack(samples)
        if self.device.type == "cuda":
            batch = map_tensors(self._to_device, batch)
        with torch.inference_mode():
            outputs = self.engine(batch)
        return unstack(map_tensors(Tensor.cpu, outputs))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def encode(self, output: Any, instance: Instance) -> Any:
        """Convert one output of the model to a prediction: a JSON value, or `Media`.

        The output is a tensor without the batch dimension; with `all_outputs`, a dict of such
        tensors where the model names its outputs, or a tuple of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def explain(self, sample: Any, instance: Instance) -> Any:
        """Explain the prediction for a sample; returns a JSON value or `Media`."""
        raise InputError(400, f"model {self.name} does not support explanations")

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of one instance's payload."""
        return {}

    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of one prediction."""
        return {}

    def example(self) -> Any:
        """A valid payload; None if the task has no example."""
        return None

    def limits(self) -> dict[str, Any]:
        """The limits on the size of a request, by option."""
        names = ("bytes", "json_bytes", "values", "instances", "explained", "depth")
        return {f"max_{name}": getattr(self.options, f"max_{name}") for name in names}
