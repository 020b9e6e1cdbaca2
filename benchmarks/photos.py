"""JPEGs with the detail of real photos, from scikit-learn's china.jpg and flower.jpg."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 360  # pixels; both photos are 640 x 427


def mosaics(count: int, tiles: int = 2, seed: int = 0, quality: int = 90) -> list[bytes]:
    """Return square JPEGs of `tiles` x `tiles` crops in full resolution; 2 gives 720 x 720 pixels.

    The same seed gives the same pixels.
    """
    from sklearn.datasets import load_sample_images

    photos = [np.asarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(seed)

    def crop() -> NDArray[Any]:
        photo = photos[rng.integers(len(photos))]
        top, left = (int(rng.integers(side - TILE + 1)) for side in photo.shape[:2])
        tile = photo[top : top + TILE, left : left + TILE]
        return tile[:, ::-1] if rng.integers(2) else tile

    images = []
    for _ in range(count):
        grid = [np.concatenate([crop() for _ in range(tiles)], axis=1) for _ in range(tiles)]
        buffer = BytesIO()
        Image.fromarray(np.concatenate(grid)).save(buffer, "JPEG", quality=quality)
        images.append(buffer.getvalue())
    return images
