from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vestal.training.plots import Seen, draw_grid


def red_pixels(file):
    red, green, blue = np.asarray(Image.open(file).convert("RGB")).astype(int).transpose(2, 0, 1)
    return int(((red > 180) & (green < 100) & (blue < 120)).sum())


@pytest.mark.parametrize("count", [1, 3, 16])
def test_only_wrong_predictions_are_red(tmp_path, count):
    blank = np.zeros((8, 8))
    draw_grid([Seen(blank, "3", "3")] * count, tmp_path / "right.png")
    draw_grid([Seen(blank, "3", "3")] * (count - 1) + [Seen(blank, "3", "5")], tmp_path / "w.png")
    assert red_pixels(tmp_path / "right.png") == 0
    assert red_pixels(tmp_path / "w.png") > 0


def test_an_unknown_truth_is_not_wrong(tmp_path):
    draw_grid([Seen(np.zeros((8, 8)), None, "5")], tmp_path / "grid.png", title="photos")
    assert red_pixels(tmp_path / "grid.png") == 0
