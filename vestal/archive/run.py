"""Runs an archive's handler in this process, without Java.

TorchServe's own `ModelLoader`, `Service` and `Context` do it, and what comes back is read from the
very bytes that a worker would send to the frontend: status, headers and body of every request.
"""

from __future__ import annotations

import json
import logging
import struct
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import VestalError

MANIFEST = "MAR-INF/MANIFEST.json"
_LOADING = threading.Lock()  # sys.path and sys.modules are everybody's


@dataclass(frozen=True)
class Input:
    """One request: its parts by name (a raw body is the one part "body"), and its headers.

    A part is its bytes and its content type, as TorchServe hands them over: a form's text field
    has none ("").
    """

    parts: Mapping[str, tuple[bytes, str]]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def raw(cls, body: bytes, content_type: str = "", **headers: str) -> Input:
        """A body as it is; `headers` by keyword."""
        named = {"content-type": content_type} if content_type else {}
        return cls({"body": (body, content_type)}, {**named, **headers})

    @classmethod
    def form(cls, fields: Mapping[str, str] | None = None, **files: tuple[bytes, str]) -> Input:
        """A multipart form of text fields, and of files with their content types."""
        texts = {name: (value.encode(), "") for name, value in (fields or {}).items()}
        return cls({**texts, **files}, {"content-type": "multipart/form-data; boundary=x"})


@dataclass(frozen=True)
class Answer:
    """What the frontend would send for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class LoadedArchive:
    """A handler, loaded and warm.

    The archive's own copy of `vestal_handlers` is used only where that package is not imported
    yet: in one process there is one.

    Raises:
        VestalError: it does not load; the handler's own error is its cause.
    """

    def __init__(self, archive: Path, batch_size: int | None = None) -> None:
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        if archive.is_file():
            self._unpacked = tempfile.TemporaryDirectory(prefix="vestal-run-")
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(self._unpacked.name)
        self.folder = Path(self._unpacked.name) if self._unpacked else archive
        self.manifest = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        model = self.manifest["model"]
        if batch_size is None:
            config = self.folder / model.get("configFile", "no-config")
            read = yaml.safe_load(config.read_text("utf-8")) if config.is_file() else {}
            batch_size = int((read or {}).get("batchSize", 1))
        try:
            self._service = _load(self.folder, model, batch_size)
        except Exception as error:
            self.close()
            raise VestalError(f"{archive} does not load: {error}") from error

    def describe(self) -> Any:
        """What `?customized=true` answers."""
        (answer,) = self.predict([Input({}, {"describe": "True"})])
        return answer.json()

    def predict(self, inputs: Sequence[Input | bytes]) -> list[Answer]:
        """One batch through the handler: an answer for every input, in order."""
        batch = [
            _message(index, given if isinstance(given, Input) else Input.raw(given))
            for index, given in enumerate(inputs)
        ]
        return _parse_response(bytes(self._service.predict(batch)))

    def close(self) -> None:
        if self._unpacked:
            self._unpacked.cleanup()

    def __enter__(self) -> LoadedArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _load(folder: Path, model: Mapping[str, Any], batch_size: int) -> Any:
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader

    # "OpenVINO is not enabled": nothing that a user could act on.
    logging.getLogger("ts.torch_handler.base_handler").setLevel(logging.ERROR)
    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    with _LOADING:
        # The handler is imported by its base name: an earlier archive's must not answer for it.
        sys.modules.pop(model["handler"].split(":")[0].removesuffix(".py"), None)
        sys.path.insert(0, str(folder))
        try:
            service = TsModelLoader().load(
                model["modelName"],
                str(folder),
                model["handler"],
                gpu_id=None,
                batch_size=batch_size,
                metrics_cache=metrics,
            )
        finally:
            sys.path.remove(str(folder))
    service.set_cl_socket(None)
    return service


def _message(index: int, given: Input) -> dict[str, Any]:
    """A request as TorchServe's worker protocol has it after parsing."""
    return {
        "requestId": f"local-{index}".encode(),
        "headers": [{"name": k.encode(), "value": v.encode()} for k, v in given.headers.items()],
        "parameters": [
            {"name": name, "contentType": kind, "value": bytearray(value)}
            for name, (value, kind) in given.parts.items()
        ],
    }


def _parse_response(message: bytes) -> list[Answer]:
    """The inverse of `ts.protocol.otf_message_handler.create_predict_response`."""
    position = 0

    def integer() -> int:
        nonlocal position
        (value,) = struct.unpack_from("!i", message, position)
        position += 4
        return int(value)

    def take() -> bytes:
        nonlocal position
        length = integer()
        position += length
        return message[position - length : position]

    integer()  # the batch's own status and text: each request has its own below
    take()
    answers = []
    while struct.unpack_from("!i", message, position) != (-1,):
        take()  # request id
        take()  # content type: again among the headers
        status = integer()
        take()  # reason phrase
        headers = {take().decode(): take().decode() for _ in range(integer())}
        answers.append(Answer(status, headers, take()))
    return answers
