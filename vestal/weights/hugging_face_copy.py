"""Copy what an archive needs of a folder of transformers, with its weights as one file of tensors.

Code in the folder is neither copied nor run, and only tensors are unpickled.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.weights.hugging_face_folder import (
    ADAPTER,
    CONFIG,
    PROCESSOR,
    SLOW_TOKENIZERS,
    TOKENIZER,
    WEIGHTS,
    model_folder,
    read_json,
)

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
_ONE_FILE = "100000GB"


def copy_folder(folder: Path, target: Path, base: Path | None = None) -> str:
    """Copy configuration, tokenizer and weights; return the file with the weights.

    Shards and pickled weights are saved again as one file of safetensors, and an adapter is merged
    into its base.

    Raises:
        UsageError: an adapter without its base, or a base without an adapter.
        ValueError: there are no weights, they do not fit config.json, or a file is a link out of
            the folder.
    """
    source = model_folder(folder, base)
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
    if not (target / TOKENIZER).is_file() and any((source / n).is_file() for n in SLOW_TOKENIZERS):
        _convert_tokenizer(source, target)
    return WEIGHTS


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

    names = read_json(folder / CONFIG).get("architectures") or ["none"]
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
