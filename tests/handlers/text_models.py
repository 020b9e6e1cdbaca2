"""A seeded text classifier, its archive, and what a plain script predicts with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from folders import write_archive
from torch import nn

from vestal_handlers.text.hashing import TextTransform

LABELS = ["code", "prose"]
CODE = "def first(items):\n    return items[0]"
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen."
TRANSFORMS = """
from vestal_handlers.text.hashing import TextTransform

transform = TextTransform(size=2048, words=2)
"""


def simplenet() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Linear(2048, 256)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        first.weight.mul_(20)  # so that the text changes the prediction
    return net


def write_text_classifier(folder: Path) -> Path:
    """Write the unpacked archive of `simplenet`."""
    options = {"max_chars": 5000, "explain_words": 5}
    return write_archive(
        folder,
        "text_classifier",
        simplenet(),
        options=options,
        labels=LABELS,
        transforms=TRANSFORMS,
    )


def plain(vector: torch.Tensor) -> torch.Tensor:
    """The probabilities for a vector, as a plain script computes them."""
    model = simplenet().eval()
    with torch.no_grad():
        return torch.softmax(model(vector.unsqueeze(0)), dim=1)[0]


def matches(answer: Any, text: str) -> bool:
    """Assert that a prediction is that of a plain script."""
    probabilities = plain(TextTransform()(text))
    assert answer["label"] == LABELS[int(probabilities.argmax())]
    assert answer["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert answer["top"][0]["label"] == answer["label"]
    return True
