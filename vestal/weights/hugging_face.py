"""Folders of Hugging Face transformers: recognize their task, and copy what an archive needs.

Code in a folder is neither copied nor run, and only tensors are unpickled.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import UsageError, VestalError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = "model.safetensors"
TOKENIZER, PROCESSOR = "tokenizer.json", "preprocessor_config.json"
# What is copied besides the weights, if it is in the folder.
FILES = (
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    PROCESSOR,
    # of sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
_SLOW_TOKENIZERS = (
    *("vocab.txt", "vocab.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tokenizer.model", "source.spm"),
)
_ONE_FILE = "100000GB"


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


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that transformers or peft has saved."""
    return any((path / name).is_file() for name in (CONFIG, ADAPTER))


def recognize(folder: Path, base: Path | None = None) -> str:
    """Return the task of a folder, by the architecture in its config.json.

    Args:
        base: the folder of the model that an adapter was trained for.

    Raises:
        UsageError: its architecture has no task of `TASKS`.
    """
    from transformers.models.auto import modeling_auto

    source = _model_folder(folder, base)
    names = _read_json(source / CONFIG).get("architectures") or []
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
    kind, source = TASKS[task], _model_folder(folder, base)
    if not _has(source, kind) and not _has(folder, kind):
        what = "the tokenizer" if kind.file == TOKENIZER else "the image processor"
        loader = "AutoTokenizer" if kind.file == TOKENIZER else "AutoImageProcessor"
        raise UsageError(
            f"{source} has no {kind.file}, {what} that {task} needs: save it there "
            f"({loader}.from_pretrained(...).save_pretrained(FOLDER))"
        )


def labels_of(folder: Path) -> list[str] | None:
    """Return the labels of a classifier in the order of its classes; None for other models.

    Raises:
        ValueError: transformers cannot read config.json.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds of exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{CONFIG} cannot be read by transformers: {reason[:300]}") from None
    if not any("Classification" in name for name in config.architectures or ()):
        return None
    return [config.id2label[index] for index in range(len(config.id2label))]


def copy_folder(folder: Path, target: Path, base: Path | None = None) -> str:
    """Copy configuration, tokenizer and weights; return the file with the weights.

    Shards and pickled weights are saved again as one file of safetensors, and an adapter is merged
    into its base.

    Raises:
        UsageError: an adapter without its base, or a base without an adapter.
        ValueError: there are no weights, they do not fit config.json, or a file is a link out of
            the folder.
    """
    source = _model_folder(folder, base)
    whole = None if source != folder else _whole_weights(folder)
    for place in dict.fromkeys([source, folder]):
        for file in FILES:
            if (place / file).is_file():
                _check_link(place / file)
                (target / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(place / file, target / file)
    if whole is not None:
        _check_link(whole)
        shutil.copyfile(whole, target / WEIGHTS)
    else:
        _save_again(source, target, None if source == folder else folder)
    if not (target / TOKENIZER).is_file() and any((source / n).is_file() for n in _SLOW_TOKENIZERS):
        _convert_tokenizer(source, target)
    return WEIGHTS


def _has(folder: Path, kind: PretrainedTask) -> bool:
    slow = _SLOW_TOKENIZERS if kind.file == TOKENIZER else ()
    return any((folder / name).is_file() for name in (kind.file, *slow))


def _model_folder(folder: Path, base: Path | None) -> Path:
    """The folder with config.json: that of the base for an adapter."""
    adapter = (folder / ADAPTER).is_file()
    if not adapter and base is not None:
        raise UsageError(f"{folder} is not an adapter, so it has no --base")
    if not adapter or ((folder / CONFIG).is_file() and base is None):
        return folder
    if base is None or not (base / CONFIG).is_file():
        name = _read_json(folder / ADAPTER).get("base_model_name_or_path")
        raise UsageError(
            f"{folder} is an adapter: pass the folder of the model that it was trained for "
            f"({name}) with --base FOLDER"
        )
    return base


def _whole_weights(folder: Path) -> Path | None:
    """The file with all weights; None if they must be saved again.

    Raises:
        ValueError: there are no weights, or several variants.
    """
    weights = folder / WEIGHTS
    if weights.is_file():  # variants may be in the folder, too
        return weights
    if any(folder.glob("*.index.json")):
        return None
    if shards := sorted(folder.glob("*-of-*.safetensors")):
        raise ValueError(
            f"{folder} holds {len(shards)} shards without their index: copy {WEIGHTS}.index.json "
            "too"
        )
    adapters = sorted(folder.glob("adapter_*.safetensors"))
    found = sorted({*folder.glob("*.safetensors")} - {*adapters})
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{folder} holds {', '.join(file.name for file in found)}: rename the one to use to "
            f"{WEIGHTS}"
        )
    if adapters:
        raise ValueError(f"{folder} holds an adapter ({adapters[0].name}) without {ADAPTER}")
    if (folder / "pytorch_model.bin").is_file():
        return None
    raise ValueError(
        f"{folder} has no {WEIGHTS}, no shards and no pytorch_model.bin: "
        "model.save_pretrained(folder) of transformers writes them"
    )


def _save_again(folder: Path, target: Path, adapter: Path | None) -> None:
    import transformers

    names = _read_json(folder / CONFIG).get("architectures") or ["none"]
    architecture = getattr(transformers, str(names[0]), None)
    if architecture is None:
        raise ValueError(f"transformers {transformers.__version__} has no {names[0]} ({CONFIG})")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    safe = {"local_files_only": True, "trust_remote_code": False, "weights_only": True}
    try:
        model, report = architecture.from_pretrained(
            folder, dtype="auto", output_loading_info=True, **safe
        )
        if wrong := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"the weights have no {', '.join(wrong[:4])}")
        if adapter is not None:
            model = _merged(model, adapter)
        model.save_pretrained(target, max_shard_size=_ONE_FILE)
    except Exception as error:  # transformers raises many kinds of exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{adapter or folder} cannot be loaded: {reason[:300]}") from None


def _merged(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise VestalError(
            f"{adapter} is an adapter, which the package peft merges into its model: "
            "pip install peft"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between peft and transformers
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _convert_tokenizer(folder: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer.save_pretrained(target)
    except Exception as error:  # a missing package, a corrupt file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the tokenizer in {folder} cannot be loaded: {reason[:300]}") from None


def _check_link(file: Path) -> None:
    """Raise ValueError for a link out of a downloaded folder; the hub's cache links to blobs."""
    places = [file.parent.resolve()]
    if file.parent.resolve().parent.name == "snapshots":
        places.append(file.parent.resolve().parents[1] / "blobs")
    if not any(file.resolve().is_relative_to(place) for place in places):
        raise ValueError(
            f"{file} is a link to {file.resolve()}, outside of its folder: replace it by a copy"
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a JSON object")
    return content
