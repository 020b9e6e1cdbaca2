"""The tasks of Hugging Face folders: recognize the task of a folder, and check what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vestal.errors import UsageError
from vestal.weights.hugging_face_folder import (
    CONFIG,
    PROCESSOR,
    SLOW_TOKENIZERS,
    TOKENIZER,
    is_folder,
    model_folder,
    read_json,
)

__all__ = ["TASKS", "PretrainedTask", "check_folder", "is_folder", "recognize"]


@dataclass(frozen=True)
class PretrainedTask:
    """A task of Hugging Face, and the handler that serves it.

    Attributes:
        module, handler: the class, and its module of `vestal_handlers.tasks`.
        mapping: the table of transformers with the architectures for the task.
        file: what the folder must have besides config.json and weights.
    """

    module: str
    handler: str
    mapping: str
    file: str = TOKENIZER


def _text(module: str, handler: str, mapping: str) -> PretrainedTask:
    return PretrainedTask(module, handler, f"MODEL_{mapping}MAPPING_NAMES")


_TO_TEXT = _text("text_to_text", "TextToText", "FOR_SEQ_TO_SEQ_CAUSAL_LM_")
_EMBEDDER = _text("text_embedder", "TextEmbedder", "")
# The first one with the architecture of a folder is its task.
TASKS = {
    "text-classification": _text(
        "sequence_classifier", "SequenceClassifier", "FOR_SEQUENCE_CLASSIFICATION_"
    ),
    "token-classification": _text(
        "token_classifier", "TokenClassifier", "FOR_TOKEN_CLASSIFICATION_"
    ),
    "question-answering": _text("question_answerer", "QuestionAnswerer", "FOR_QUESTION_ANSWERING_"),
    "text2text-generation": _TO_TEXT,
    "fill-mask": _text("mask_filler", "MaskFiller", "FOR_MASKED_LM_"),
    "text-generation": _text("text_generator", "TextGenerator", "FOR_CAUSAL_LM_"),
    "image-classification": PretrainedTask(
        "pretrained_image_classifier",
        "PretrainedImageClassifier",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        PROCESSOR,
    ),
    "feature-extraction": _EMBEDDER,
    "image-feature-extraction": PretrainedTask(
        "image_embedder", "ImageEmbedder", "MODEL_MAPPING_NAMES", PROCESSOR
    ),
    "sentence-similarity": _EMBEDDER,
    "zero-shot-classification": _text(
        "zero_shot_classifier", "ZeroShotClassifier", "FOR_SEQUENCE_CLASSIFICATION_"
    ),
    "summarization": _TO_TEXT,
    "translation": _TO_TEXT,
}


def recognize(folder: Path, base: Path | None = None) -> str:
    """Return the task of a folder, by the architecture in its config.json.

    Args:
        base: the folder of the model that an adapter was trained for.

    Raises:
        UsageError: its architecture has no task of `TASKS`.
    """
    from transformers.models.auto import modeling_auto

    source = model_folder(folder, base)
    names = read_json(source / CONFIG).get("architectures") or []
    if not names:
        raise UsageError(
            f"{source / CONFIG} names no architecture, so the task is not known: pass --task "
            f"({', '.join(TASKS)})"
        )
    for task, kind in TASKS.items():
        known = getattr(modeling_auto, kind.mapping).values()
        listed = {one for each in known for one in ([each] if isinstance(each, str) else each)}
        if names[0] in listed and (kind.mapping != "MODEL_MAPPING_NAMES" or _has(source, kind)):
            return task
    raise UsageError(
        f"{source / CONFIG} has the architecture {names[0]}, which has none of the tasks that are "
        f"served: {', '.join(TASKS)}. For another task, write a handler (vestal new --task custom)"
    )


def check_folder(folder: Path, task: str, base: Path | None = None) -> None:
    """Check that a folder has what a task needs.

    Raises:
        UsageError: a file is missing, or an adapter comes without its base.
    """
    kind, source = TASKS[task], model_folder(folder, base)
    if not _has(source, kind) and not _has(folder, kind):
        what = "the tokenizer" if kind.file == TOKENIZER else "the image processor"
        loader = "AutoTokenizer" if kind.file == TOKENIZER else "AutoImageProcessor"
        raise UsageError(
            f"{source} has no {kind.file}, {what} that {task} needs: save it there "
            f"({loader}.from_pretrained(...).save_pretrained(FOLDER))"
        )


def _has(folder: Path, kind: PretrainedTask) -> bool:
    slow = SLOW_TOKENIZERS if kind.file == TOKENIZER else ()
    return any((folder / name).is_file() for name in (kind.file, *slow))
