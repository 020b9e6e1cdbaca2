"""Small data sets in the layout of MNIST."""

from __future__ import annotations

import struct

import numpy as np


def write_idx(folder, name, array):
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack("!HBB", 0, 8, array.ndim) + struct.pack(f"!{array.ndim}I", *array.shape)
    (folder / name).write_bytes(head + array.tobytes())


def write_idx_set(raw):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8)
    classes = np.arange(100, dtype=np.uint8) % 10
    write_idx(raw, "train-images-idx3-ubyte", pixels)
    write_idx(raw, "train-labels-idx1-ubyte", classes)
    write_idx(raw, "t10k-images-idx3-ubyte", pixels[:20])
    write_idx(raw, "t10k-labels-idx1-ubyte", classes[:20])
    return pixels
