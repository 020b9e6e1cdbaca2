"""The artifact, the labels and the sample: files that a handler opens by itself."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from packaging.version import InvalidVersion, Version

from vestal.checking.bill import Bill
from vestal.checking.handlers import Handler
from vestal.checking.manifest import Manifest
from vestal.checking.pickles import members_of
from vestal.mar.findings import Findings
from vestal.mar.layout import BILL, LABELS, MANIFEST
from vestal.mar.names import is_junk
from vestal.mar.opening import Contents
from vestal.mar.sample import DESCRIPTION, FOLDER

SAMPLE = f"{FOLDER}/{DESCRIPTION}"
_TOP = 5  # ts.torch_handler.image_classifier.ImageClassifier.topk
_NATIVE = {".so", ".dylib", ".dll", ".pyd"}
_OTHER_RUNTIMES = {"vllm_handler", "trt_llm_handler", "dali_image_classifier"}


def check_weights(
    contents: Contents, manifest: Manifest, handler: Handler, bill: Bill | None, found: Findings
) -> None:
    """Whether the artifact is of the kind that its handler loads."""
    for name in contents.names:
        if PurePosixPath(name).suffix in _NATIVE and not is_junk(name):
            found.note(
                "native-code",
                name,
                "compiled code, which runs in the worker and which no check can read",
                "serve it only if you know who made it",
            )
    artifact = manifest.serialized
    if handler.stock:
        _check_stock(contents, manifest, found)
    elif (
        artifact
        and bill
        and bill.engine == "torchscript"
        and not is_torchscript(contents, artifact)
    ):
        _not_torchscript(artifact, found)


def is_torchscript(contents: Contents, name: str) -> bool:
    with contents.path(name).open("rb") as stream:
        return "constants.pkl" in set(members_of(stream))


def _check_stock(contents: Contents, manifest: Manifest, found: Findings) -> None:
    """By `BaseHandler.initialize`; handlers of other runtimes load their weights themselves."""
    name = manifest.serialized
    if manifest.handler in _OTHER_RUNTIMES:
        return
    if name is None:
        if manifest.model_file is None and not any(
            one.code == "manifest-file" for one in found.items
        ):
            found.error(
                "weights-kind",
                MANIFEST,
                "neither serializedFile nor modelFile: this handler has no weights to load",
                "give torch-model-archiver --serialized-file",
            )
    elif manifest.model_file:
        if is_torchscript(contents, name):
            found.error(
                "weights-kind",
                name,
                "a TorchScript file beside a model file: the handler loads it with torch.load, "
                "which refuses TorchScript",
                "pack the state_dict, or leave --model-file out",
            )
    elif name.endswith(".pt"):
        if not is_torchscript(contents, name):
            _not_torchscript(name, found)
    elif not name.endswith((".onnx", ".so")):
        found.error(
            "weights-kind",
            name,
            "without a model file this handler loads .pt (TorchScript), .onnx or .so, by its name",
            "pack TorchScript as .pt, or give --model-file with the architecture",
        )


def _not_torchscript(name: str, found: Findings) -> None:
    found.error(
        "weights-kind",
        name,
        "the handler loads this file as TorchScript, and it is none",
        "save it with torch.jit.script(model).save(...), or pack a state_dict with its model file",
    )


def check_labels(contents: Contents, handler: str, strict: bool, found: Findings) -> None:
    """index_to_name.json, by `ts.utils.util.load_label_mapping`.

    Args:
        handler: as the manifest names it.
        strict: a load fails without them.
    """
    if LABELS not in contents:
        return
    given: Any = None
    try:
        given = json.loads(contents.text(LABELS))
        problem = _labels_problem(given)
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON ({error})"
    if problem:
        add = found.error if strict else found.warning
        add("labels", LABELS, problem, 'write {"0": "first label", "1": "second label"}')
        return
    if shared := _shared(given):
        found.warning(
            "labels",
            LABELS,
            shared,
            "give each class a label of its own, or tell them apart by index",
        )
    if handler == "image_classifier" and len(given) < _TOP and "object_type_names" not in given:
        found.error(
            "labels",
            LABELS,
            f"{len(given)} labels: TorchServe's image_classifier asks for the {_TOP} best classes, "
            "and fails every request to a model of fewer",
            "write a handler: class Mine(ImageClassifier) with topk set to what you want",
        )


def _shared(given: Any) -> str | None:
    # Not above: a process that holds an archive must import the archive's own copy first.
    from vestal_handlers.labels import labels_in, shared_labels

    names = given.get("object_type_names")
    try:
        return shared_labels(names if isinstance(names, list) else labels_in(given))
    except (KeyError, TypeError):  # not numbered from 0: TorchServe reads it all the same
        return None


def _labels_problem(given: Any) -> str:
    if not isinstance(given, dict):
        return "it must be an object from class number to label"
    if isinstance(given.get("object_type_names"), list):
        return ""
    for key, value in given.items():
        last = value[-1] if isinstance(value, list) and value else value
        if not isinstance(last, str):
            return f"the label of {key!r:.40} is {value!r:.40}, not a text"
    return ""


def check_sample(contents: Contents, found: Findings) -> None:
    """sample/sample.json and the input that it names."""
    if SAMPLE not in contents:
        return
    try:
        given = json.loads(contents.text(SAMPLE))
        name = given["input"]
        given["answer"], given["content_type"].encode("ascii")
        float(given.get("tolerance", 0))
        if "/" in name or f"{FOLDER}/{name}" not in contents:
            raise ValueError(f"its input, {name!r:.80}, is no file beside it")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        found.error(
            "sample",
            SAMPLE,
            f"it cannot be used: {what}; a server cannot tell by it that the model is ready",
            "pack it again with vestal pack",
        )


def check_built_on(bill: Bill, found: Findings) -> None:
    """What the artifact was built on, against this machine."""
    here = {
        "machine": platform.machine(),
        "torch": metadata.version("torch"),
        "python": ".".join(map(str, sys.version_info[:2])),
    }
    compiled = bill.engine in {"exported", "aotinductor", "openvino"} or (
        bill.artifact is not None and bill.artifact.endswith((".pt2", ".so"))
    )
    for what, actual in here.items():
        told = bill.built_on.get(what)
        if told is None or not _differs(what, told, actual, compiled):
            continue
        add = found.error if compiled and what == "machine" else found.warning
        add(
            "built-elsewhere",
            BILL,
            f"it was built for {what} {told}, and here is {actual}: "
            + ("it may not load, or be slow" if what == "machine" else "it may not load here"),
            "pack it again here, or serve it where it was built for",
        )


def _differs(what: str, told: str, actual: str, compiled: bool) -> bool:
    if what == "machine":
        return told != actual
    if what == "python":
        return compiled and told.split(".")[:2] != actual.split(".")[:2]
    try:
        built, here = Version(told).release[:2], Version(actual).release[:2]
    except InvalidVersion:
        return told != actual
    # An older torch may not read what a newer one wrote; an exported graph binds both ways.
    return here < built or (compiled and here != built)
