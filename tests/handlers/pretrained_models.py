"""Models of the folders in `pretrained_folders`, loaded in this process, and requests for them."""

from __future__ import annotations

import base64
import io
import json
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image
from pretrained_folders import FOLDERS, TEXTS

from vestal.archive.runnable import open_model
from vestal.inprocess import Input, LoadedArchive
from vestal.project import Project
from vestal.scaffold import create

LONG = " ".join(TEXTS * 3)
BAD = (b"\xff\xfe", b"[1, 2]", b'{"nothing": 1}', b"")
TASKS = ("zero-shot-classification", "summarization")  # which no architecture stands for


class Models:
    """Loads each model once, by its name and the options of its handler."""

    def __init__(self, root: Path) -> None:
        self._project, self._stack, self._numbers = Project(root), ExitStack(), count()
        self._opened: dict[tuple[str, str], tuple[Path, LoadedArchive]] = {}

    def __call__(self, name, **options):
        """Return the folder of a model, and the model."""
        key = name, json.dumps(options, sort_keys=True)
        if key not in self._opened:
            project, model = self._project, f"model{next(self._numbers)}"
            folder = project.root / "folders" / name.replace(" ", "-")
            if not folder.exists():
                FOLDERS[name](folder)
            create(project, model, name if name in TASKS else "transformers", weights=folder)
            config = project.models / model / "model-config.yaml"
            config.write_text(f"{config.read_text()}handler: {json.dumps(options)}\n")
            opened = open_model(project, model, weights=folder, batch_size=2)
            self._opened[key] = folder, self._stack.enter_context(opened)
        return self._opened[key]

    def close(self):
        self._stack.close()


def ask(loaded, *payloads):
    return [
        response.json() if response.status == 200 else (response.status, response.json()["message"])
        for response in loaded.predict([body(each) for each in payloads])
    ]


def body(payload):
    if isinstance(payload, bytes):
        return Input.raw(payload, "application/octet-stream")
    return Input.raw(json.dumps(payload).encode(), "application/json")


def picture(seed, width=40, height=50):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pipeline(task, folder, **options):
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-5)
    else:
        assert one == other


REQUESTS = {
    "text-classification": TEXTS,
    "several labels": TEXTS,
    "regression": TEXTS,
    "token-classification": TEXTS,
    "zero-shot-classification": [
        {"text": t, "candidate_labels": ["a", "city", "fox"]} for t in TEXTS
    ],
    "fill-mask": ["The [MASK] fox", "A [MASK] [MASK] dog of London", "[MASK]"],
    "question-answering": [{"question": TEXTS[2], "context": t} for t in TEXTS],
    "feature-extraction": TEXTS,
    "summarization": [{"text": t, "max_new_tokens": 8} for t in TEXTS],
    "text2text-generation": [{"text": t, "max_new_tokens": 8} for t in TEXTS],
    "several languages": [
        {"text": t, "tgt_lang": code, "max_new_tokens": 8}
        for t, code in zip(TEXTS, ["fra_Latn", "deu_Latn"] * 2, strict=True)
    ],
    "languages at the end": [{"text": t, "tgt_lang": "de_DE", "max_new_tokens": 8} for t in TEXTS],
    "text-generation": [
        {"prompt": "The quick"},
        {"messages": [{"role": "user", "content": "Hello"}], "max_new_tokens": 4},
        {"prompt": "A fox", "max_new_tokens": 4},
    ],
    "image-classification": [picture(seed, 20 + seed, 30) for seed in range(3)],
    "image-feature-extraction": [picture(seed, 20 + seed, 30) for seed in range(3)],
}
PARAMETERS = {
    "text-classification": [{"top_k": 1}, {"top_k": 2}, {"truncate": "right"}],
    "several labels": [{"top_k": 1}, {"top_k": 99}],
    "token-classification": [{"aggregation_strategy": name} for name in ("none", "first", "max")],
    "zero-shot-classification": [
        {"multi_label": True},
        {"hypothesis_template": "A {} is here."},
        {"candidate_labels": ["fox", "a"]},
    ],
    "fill-mask": [{"top_k": 1}, {"top_k": 9}],
    "question-answering": [{"top_k": 2}, {"top_k": 9}],
    "feature-extraction": [{"normalize": True}, {"normalize": False}],
    "text2text-generation": [{"num_beams": 3, "length_penalty": -2.0}, {"max_new_tokens": 3}],
    "summarization": [
        {"num_beams": 2},
        {"min_new_tokens": 7},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 3.5},
    ],
    "several languages": [{"src_lang": "spa_Latn"}, {"tgt_lang": "zul_Latn", "num_beams": 2}],
    "languages at the end": [{"src_lang": "ar_AR"}, {"tgt_lang": "ro_RO"}],
    "text-generation": [{"max_new_tokens": 3}, {"top_k": 5, "seed": 1}],
    "image-classification": [{"top_k": 1}, {"top_k": 2}],
    "image-feature-extraction": [{"normalize": True}],
}
"""Valid fields beside the inputs of a request, for each task."""


def with_fields(payload, fields):
    """A payload of `REQUESTS` with more fields."""
    if isinstance(payload, bytes):
        payload = {"data": base64.b64encode(payload).decode()}
    return {**(payload if isinstance(payload, dict) else {"text": payload}), **fields}
