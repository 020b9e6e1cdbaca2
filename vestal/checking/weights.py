"""Check the artifact, the labels and the sample: files that a handler opens itself."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from packaging.version import InvalidVersion, Version

from vestal.checking.bill import Bill
from vestal.checking.handlers import Handler
from vestal.checking.pickles import torch_members
from vestal.mar.findings import Check, Finding
from vestal.mar.layout import BILL, LABELS, MANIFEST
from vestal.mar.manifest import Manifest
from vestal.mar.names import is_junk
from vestal.mar.opening import Contents
from vestal.mar.sample import DESCRIPTION, FOLDER

SAMPLE = f"{FOLDER}/{DESCRIPTION}"
_TOP = 5  # ts.torch_handler.image_classifier.ImageClassifier.topk
_NATIVE = {".so", ".dylib", ".dll", ".pyd"}
_OTHER_RUNTIMES = {"vllm_handler", "trt_llm_handler", "dali_image_classifier"}


def check_native_code(contents: Contents) -> Check[None]:
    """Point out compiled code."""
    for name in contents.names:
        if PurePosixPath(name).suffix in _NATIVE and not is_junk(name):
            yield Finding.note(
                "native-code",
                name,
                "compiled code, which runs in the worker and cannot be checked",
                "serve it only if you trust its author",
            )


def check_weights(
    contents: Contents, manifest: Manifest, handler: Handler, bill: Bill | None
) -> Check[None]:
    """Check that the artifact has the format that its handler loads."""
    artifact = manifest.serialized_file
    if artifact and artifact not in contents:
        return
    if handler.stock:
        yield from _check_stock(contents, manifest)
    elif artifact and bill and bill.engine == "torchscript" and not _is_script(contents, artifact):
        yield _not_torchscript(artifact)


def _is_script(contents: Contents, name: str) -> bool:
    with contents.path(name).open("rb") as stream:
        return "constants.pkl" in set(torch_members(stream))


def _check_stock(contents: Contents, manifest: Manifest) -> Iterator[Finding]:
    """The rules of `BaseHandler.initialize`; other runtimes load their weights themselves."""
    name = manifest.serialized_file
    if manifest.handler in _OTHER_RUNTIMES:
        return
    if name is None:
        if manifest.model_file is None:
            yield Finding.error(
                "weights-kind",
                MANIFEST,
                "neither serializedFile nor modelFile: this handler has no weights to load",
                "pass --serialized-file to torch-model-archiver",
            )
    elif manifest.model_file:
        if _is_script(contents, name):
            yield Finding.error(
                "weights-kind",
                name,
                "a TorchScript file together with a model file: the handler loads it with "
                "torch.load, which rejects TorchScript",
                "pack the state_dict, or omit --model-file",
            )
    elif name.endswith(".pt"):
        if not _is_script(contents, name):
            yield _not_torchscript(name)
    elif not name.endswith((".onnx", ".so")):
        yield Finding.error(
            "weights-kind",
            name,
            "without a model file, this handler loads .pt (TorchScript), .onnx or .so files, "
            "depending on the name",
            "pack TorchScript as .pt, or pass --model-file with the architecture",
        )


def _not_torchscript(name: str) -> Finding:
    return Finding.error(
        "weights-kind",
        name,
        "the handler loads this file as TorchScript, but it is not TorchScript",
        "save it with torch.jit.script(model).save(...), or pack a state_dict with its model file",
    )


def check_labels(contents: Contents, handler: str, strict: bool) -> Check[None]:
    """Check index_to_name.json by the rules of `ts.utils.util.load_label_mapping`.

    Args:
        handler: the text in the manifest.
        strict: loading fails without labels.
    """
    if LABELS not in contents:
        return
    labels: Any = None
    try:
        labels = json.loads(contents.text(LABELS))
        problem = _labels_problem(labels)
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON ({error})"
    if problem:
        add = Finding.error if strict else Finding.warning
        todo = 'write {"0": "first label", "1": "second label"}'
        yield add("labels", LABELS, problem, todo)
        return
    if shared := _shared_labels(labels):
        todo = "give each class its own label, or distinguish the classes by index"
        yield Finding.warning("labels", LABELS, shared, todo)
    if handler == "image_classifier" and len(labels) < _TOP and "object_type_names" not in labels:
        yield Finding.error(
            "labels",
            LABELS,
            f"it has {len(labels)} labels: TorchServe's image_classifier computes the {_TOP} best "
            "classes, and every request to a model with fewer classes fails",
            "write a handler `class Mine(ImageClassifier)` and set topk in it",
        )


def _shared_labels(labels: Any) -> str | None:
    # Imported late: a process that loads an archive must import the archive's own copy first.
    from vestal_handlers.labels import labels_in, shared_labels

    names = labels.get("object_type_names")
    try:
        return shared_labels(names if isinstance(names, list) else labels_in(labels))
    except (KeyError, TypeError):  # not numbered from 0, which TorchServe accepts
        return None


def _labels_problem(labels: Any) -> str:
    if not isinstance(labels, dict):
        return "it must be an object from class number to label"
    if isinstance(labels.get("object_type_names"), list):
        return ""
    for key, value in labels.items():
        last = value[-1] if isinstance(value, list) and value else value
        if not isinstance(last, str):
            return f"the label of {key!r:.40} is {value!r:.40}, expected a string"
    return ""


def check_sample(contents: Contents) -> Check[None]:
    """Check sample/sample.json and the input that it names."""
    if SAMPLE not in contents:
        return
    try:
        sample = json.loads(contents.text(SAMPLE))
        name = sample["input"]
        sample["answer"], sample["content_type"].encode("ascii")
        float(sample.get("tolerance", 0))
        if "/" in name or f"{FOLDER}/{name}" not in contents:
            raise ValueError(f"its input, {name!r:.80}, is not a file beside it")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        yield Finding.error(
            "sample",
            SAMPLE,
            f"it cannot be used: {reason}; a server needs it to test whether the model is ready",
            "pack it again with vestal pack",
        )


def check_built_on(bill: Bill) -> Check[None]:
    """Compare this machine with the one on which the artifact was built."""
    here = {
        "machine": platform.machine(),
        "torch": metadata.version("torch"),
        "python": ".".join(map(str, sys.version_info[:2])),
    }
    compiled = bill.engine in {"exported", "aotinductor", "openvino"} or (
        bill.artifact is not None and bill.artifact.endswith((".pt2", ".so"))
    )
    for part, actual in here.items():
        built = bill.built_on.get(part)
        if built is None or not _differs(part, built, actual, compiled):
            continue
        is_machine = part == "machine"
        add = Finding.error if compiled and is_machine else Finding.warning
        yield add(
            "built-elsewhere",
            BILL,
            f"it was built for {part} {built}, and this is {part} {actual}: "
            f"it may {'not load, or be slow' if is_machine else 'not load here'}",
            "pack it again here, or serve it where it was built for",
        )


def _differs(part: str, built: str, actual: str, compiled: bool) -> bool:
    if part == "machine":
        return built != actual
    if part == "python":
        return compiled and built.split(".")[:2] != actual.split(".")[:2]
    try:
        built_release, release = Version(built).release[:2], Version(actual).release[:2]
    except InvalidVersion:
        return built != actual
    # An older torch may not read what a newer one wrote; an exported graph needs the same one.
    return release < built_release or (compiled and release != built_release)
