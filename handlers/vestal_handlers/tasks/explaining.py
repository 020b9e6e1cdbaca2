"""Explain a prediction: attribute a score of the model's output to the values of its input.

Integrated gradients (Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365) if the model can
be differentiated: the attributions add up to the score of the input minus that of a baseline.
Otherwise occlusion (Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901): how much the score
falls if a part is replaced by the baseline. captum implements both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vestal_handlers.engines import Engine
from vestal_handlers.errors import HandlerError, InputError
from vestal_handlers.options import Options, number

if TYPE_CHECKING:
    # Rows and texts are explained without torchvision.
    from vestal_handlers.images.decoding import ImageTransform

# Values of inputs in one pass with gradients: 7 images of 3 x 224 x 224, all steps of a small row.
_VALUES_A_PASS = 2**20
_OCCLUDED_A_PASS = 16  # inputs in one pass without gradients
_WINDOWS = 8  # an occluding window is an image's height / 8 by its width / 8
_CELLS = 32

Sample = Tensor | Mapping[str, Tensor]
SampleT = TypeVar("SampleT", bound=Sample)


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """
    Attributes:
        n_steps: steps of integrated gradients between the baseline and the input.
    """

    n_steps: int = number(50, at_least=2, at_most=1000)


@dataclass(frozen=True)
class Attribution(Generic[SampleT]):
    """The contribution of each value of a sample to a score.

    Attributes:
        values: float32 on the CPU, in the form and shapes of the sample. Integrated gradients: they
            add up to `score - baseline_score`, as closely as `n_steps` allow. Occlusion: the fall
            of the score.
        score: the score of the sample.
        baseline_score: the score of the baseline.
        method: "integrated_gradients" or "occlusion".
    """

    values: SampleT
    score: float
    baseline_score: float
    method: str

    def cells(self: Attribution[Tensor]) -> list[list[float]]:
        """An image's [C, H, W] as at most 32 x 32 cells: the sum of each (occlusion: the mean).

        Numbers are rounded to 5 digits, which are enough for a picture.
        """
        adds_up = self.method == "integrated_gradients"
        values = self.values.double()
        grid = (values.sum(0) if adds_up else values.mean(0)).numpy()
        for axis in (0, 1):
            size = grid.shape[axis]
            starts = np.linspace(0, size, min(size, _CELLS), endpoint=False).astype(int)
            grid = np.add.reduceat(grid, starts, axis=axis)
            if not adds_up:
                lengths = np.diff([*starts, size])
                grid = grid / np.expand_dims(lengths, 1 - axis)
        return [[float(f"{value:.5g}") for value in row] for row in grid.tolist()]


def attribute(
    engine: Engine,
    sample: SampleT,
    baseline: SampleT,
    score: Callable[[Any], Tensor],
    *,
    device: torch.device,
    n_steps: int = 50,
    deadline: float = math.inf,
) -> Attribution[SampleT]:
    """Attribute a score of the model's output to the values of a sample.

    Integrated gradients need an engine with a `module`, and floating-point tensors only: token ids,
    for example, are explained by occlusion.

    Args:
        sample: a tensor, or a dict of tensors by the names of the model's inputs, without the batch
            dimension.
        baseline: a sample of the same shapes that stands for "nothing there".
        score: computes the explained scores [N] from the engine's outputs [N, ...].
        deadline: time.monotonic() after which the explanation fails.

    Raises:
        InputError: 400, captum is not installed.
        HandlerError: the attributions are not finite, or the deadline has passed.
    """
    try:
        from captum.attr import FeatureAblation, IntegratedGradients
    except ImportError:
        raise InputError(
            400, "explanations need the package captum, which is not installed on this server"
        ) from None
    names = list(sample) if isinstance(sample, Mapping) else []
    inputs, baselines = _rows(sample, names, device), _rows(baseline, names, device)

    def forward(*tensors: Tensor) -> Tensor:
        if time.monotonic() > deadline:
            raise HandlerError(
                "the explanation took too long; request fewer at once, lower handler.n_steps, or "
                "raise responseTimeout"
            )
        scores = score(engine(dict(zip(names, tensors, strict=True)) if names else tensors[0]))
        if scores.requires_grad:
            # torch raises for an input that the score does not depend on; its gradient is 0.
            scores = scores + sum(each.reshape(len(each), -1)[:, 0] * 0 for each in tensors)
        return scores

    differentiable = engine.module is not None and all(map(Tensor.is_floating_point, inputs))
    if differentiable:
        steps = max(1, _VALUES_A_PASS // sum(map(Tensor.numel, inputs)))
        # Copies that require gradients: samples are shared, and captum warns if it must set this.
        attributions = IntegratedGradients(forward).attribute(
            tuple(each.clone().requires_grad_() for each in inputs),
            baselines,
            n_steps=n_steps,
            internal_batch_size=min(steps, n_steps),
        )
    else:
        attributions = FeatureAblation(forward).attribute(
            inputs,
            baselines,
            feature_mask=_occlusion_groups(inputs, baselines),
            perturbations_per_eval=_OCCLUDED_A_PASS,
        )
    if not all(torch.isfinite(each).all() for each in attributions):
        raise HandlerError("the attributions are not finite (NaN or infinity)")
    with torch.no_grad():
        both = (torch.cat(pair) for pair in zip(inputs, baselines, strict=True))
        at_input, at_baseline = forward(*both).tolist()
    tensors = [each[0].detach().float().cpu() for each in attributions]
    values: Any = dict(zip(names, tensors, strict=True)) if names else tensors[0]
    return Attribution(
        values,
        at_input,
        at_baseline,
        "integrated_gradients" if differentiable else "occlusion",
    )


def _rows(sample: Sample, names: Sequence[str], device: torch.device) -> tuple[Tensor, ...]:
    """The tensors of a sample as batches of one row."""
    tensors = [sample] if isinstance(sample, Tensor) else [sample[name] for name in names]
    return tuple(each.detach().to(device).unsqueeze(0) for each in tensors)


def _occlusion_groups(inputs: Sequence[Tensor], baselines: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """For each value, the number of the group of values that is occluded at once.

    A group is a window of an image, or one value; 0 is the group of all that equal the baseline.
    """
    groups, used = [], 0
    for each, baseline in zip(inputs, baselines, strict=True):
        if each.dim() == 4:
            rows, columns = (
                torch.arange(side, device=each.device) // math.ceil(side / _WINDOWS)
                for side in each.shape[2:]
            )
            numbers = (1 + _WINDOWS * rows[:, None] + columns).expand_as(each)
        else:
            differs = (each != baseline).flatten()
            numbers = torch.where(differs, differs.cumsum(0), 0).reshape(each.shape)
        groups.append(torch.where(numbers > 0, numbers + used, 0))
        used += int(numbers.max())
    return tuple(groups)


def model_view(transform: ImageTransform, image: Tensor) -> Tensor:
    """A decoded image as the model gets it, uint8 [C, H, W]: resized, but not yet scaled."""
    for step in transform.steps:
        changed = step(image)
        if changed.dtype != torch.uint8:
            break
        image = changed
    return image


def heat_map(picture: Tensor, values: Tensor) -> bytes:
    """Draw attributions over an image as a PNG: red adds to the score, blue lowers it.

    Values of images larger than 64 pixels are averaged with their neighbours, as single values are
    noise. Full colour is at the 99th percentile of the absolute values, so that one pixel does not
    make all others pale.

    Args:
        picture: uint8 [C, H, W], C = 1 or 3; resized to the size of `values`.
        values: float [C, H, W].
    """
    around = 2 * (min(values.shape[1:]) // 64) + 1
    each = torch.nn.functional.avg_pool2d(
        values.sum(0, keepdim=True), around, 1, around // 2, count_include_pad=False
    )[0].numpy()
    array = picture.permute(1, 2, 0).numpy()
    grey = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).convert("L")
    grey = grey.resize(each.shape[::-1], Image.Resampling.BILINEAR)
    # A paler picture, so that colour is visible on black and on white.
    ground = 64 + np.asarray(grey, dtype=np.float64)[..., None] / 2
    strength = np.clip(np.abs(each) / (np.percentile(np.abs(each), 99) or 1.0), 0, 1)[..., None]
    colour = np.where(each[..., None] > 0, (230.0, 30.0, 30.0), (40.0, 90.0, 250.0))
    blended = ground * (1 - strength) + colour * strength
    stream = BytesIO()
    Image.fromarray(blended.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
