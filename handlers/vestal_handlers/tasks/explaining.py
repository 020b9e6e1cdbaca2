"""Explain a prediction: attribute a score of the model's output to the values of its input.

Integrated gradients (Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365) if the engine has
a module with gradients: the attributions add up to the score of the input minus that of a baseline.
Otherwise occlusion (Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901): how much the score
falls if a part is replaced by the baseline. captum implements both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vestal_handlers.errors import HandlerError, InputError
from vestal_handlers.options import Options, number

if TYPE_CHECKING:
    # Rows and texts are explained without torchvision as well.
    from vestal_handlers.images.decoding import ImageTransform

# Values of inputs in one pass with gradients: 7 images of 3 x 224 x 224, all steps of a small row.
_VALUES_A_PASS = 2**20
_OCCLUDED_A_PASS = 16  # inputs in one pass without
_WINDOWS = 8  # an occluding window is an image's height / 8 by its width / 8
_CELLS = 32


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """
    Attributes:
        n_steps: steps of integrated gradients between the baseline and the input.
    """

    n_steps: int = number(50, at_least=2, at_most=1000)


@dataclass(frozen=True)
class Attribution:
    """What each value of a sample adds to a score.

    Attributes:
        values: float32 of the sample's shape, on the CPU. Integrated gradients: they add up to
            `score - baseline_score`, as closely as `n_steps` allow. Occlusion: the fall of the
            score.
        score: the score of the sample.
        baseline_score: the score of the baseline.
        method: "integrated_gradients" or "occlusion".
    """

    values: Tensor
    score: float
    baseline_score: float
    method: str

    def cells(self) -> list[list[float]]:
        """An image's [C, H, W] as at most 32 x 32 cells: the sum of each (occlusion: the mean).

        Numbers are rounded to 5 digits, which are enough for a picture.
        """
        values = self.values.double()
        grid = (values.sum(0) if self.adds_up else values.mean(0)).numpy()
        for axis in (0, 1):
            size = grid.shape[axis]
            starts = np.linspace(0, size, min(size, _CELLS), endpoint=False).astype(int)
            grid = np.add.reduceat(grid, starts, axis=axis)
            if not self.adds_up:
                shape = [1, 1]
                shape[axis] = -1
                grid = grid / np.diff([*starts, size]).reshape(shape)
        return [[float(f"{value:.5g}") for value in row] for row in grid.tolist()]

    @property
    def adds_up(self) -> bool:
        return self.method == "integrated_gradients"


def attribute(
    engine: Any,
    sample: Tensor,
    baseline: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    n_steps: int = 50,
    deadline: float = math.inf,
) -> Attribution:
    """Attribute a score of the model's output to the values of a sample.

    Args:
        engine: with a `module`, integrated gradients are used; without one, occlusion.
        sample: a model's input, float32, without the batch's dimension.
        baseline: an input of the same shape that stands for "nothing there".
        score: computes the explained scores [N] from outputs [N, ...].
        deadline: time.monotonic() after which the explanation fails.

    Raises:
        InputError: 400, captum is not installed.
        HandlerError: the gradients are not finite, or it took too long.
    """
    try:
        from captum.attr import FeatureAblation, IntegratedGradients, Occlusion
    except ImportError:
        raise InputError(
            400, "explanations need the package captum, which is not installed on this server"
        ) from None
    # A copy that requires gradients: samples are shared, and captum warns if it must set this.
    inputs = sample.detach().to(device).unsqueeze(0).clone().requires_grad_()
    baselines = baseline.detach().to(device).unsqueeze(0)
    module = getattr(engine, "module", None)
    # A callable engine casts inputs to the module's dtype and selects its output.
    model: Any = engine if callable(engine) else module

    def forward(batch: Tensor) -> Tensor:
        if time.monotonic() > deadline:
            raise HandlerError(
                "the explanation took too long; request fewer at once, lower handler.n_steps, or "
                "raise responseTimeout"
            )
        return score(model(batch))

    if module is not None:
        steps = max(1, _VALUES_A_PASS // inputs.numel())
        values = IntegratedGradients(forward).attribute(
            inputs, baselines, n_steps=n_steps, internal_batch_size=min(steps, n_steps)
        )
    elif sample.dim() == 3:
        window = (len(sample), *(math.ceil(side / _WINDOWS) for side in sample.shape[1:]))
        values = Occlusion(forward).attribute(
            inputs.detach(),
            window,
            window,
            baselines,
            perturbations_per_eval=_OCCLUDED_A_PASS,
        )
    else:
        values = FeatureAblation(forward).attribute(
            inputs.detach(),
            baselines,
            feature_mask=_ablation_groups(inputs, baselines),
            perturbations_per_eval=_OCCLUDED_A_PASS,
        )
    if not torch.isfinite(values).all():
        raise HandlerError("the model's gradients are not finite (NaN or infinity)")
    with torch.no_grad():
        at_input, at_baseline = forward(torch.cat([inputs.detach(), baselines])).tolist()
    return Attribution(
        values[0].detach().float().cpu(),
        at_input,
        at_baseline,
        "occlusion" if module is None else "integrated_gradients",
    )


def _ablation_groups(inputs: Tensor, baselines: Tensor) -> Tensor:
    """Groups of values to occlude: one each, and one for all that equal the baseline."""
    differs = inputs != baselines
    groups = torch.where(differs, differs.cumsum(1), 0)
    return groups - groups.min()


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
