"""Run an archive's handler in this process, without Java.

TorchServe's own `ModelLoader`, `Service` and `Context` load and call it. Status, headers and body
of each response are read from the bytes that a worker would send to the frontend.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.inprocess.messages import Input, Response, message_of, responses_of
from vestal.inprocess.module_scope import ModuleScope
from vestal.inprocess.timing import StepClock, Times
from vestal.mar.manifest import Manifest, batch_size_of, read_manifest, read_settings
from vestal.mar.unpacking import unpack_archive

_BACKEND = "openvino.torch"


class LoadedArchive:
    """A handler, loaded and warmed up.

    While it loads and predicts, its folder is the working directory and first on sys.path, as in a
    worker; several archives in one process take turns. The archive's copy of `vestal_handlers` is
    used only if that package is not imported yet, because a process has only one.

    Args:
        archive: a .mar, a .tar.gz, or the folder that one of them unpacks to.
        batch_size: what the handler warms up for; None: the one in model-config.yaml.
        decode: pass JSON and text to the handler decoded, as decode_input_request=true does. That
            is TorchServe's default; Vestal's config.properties has false.

    Attributes:
        folder: the unpacked archive, an absolute path.
        manifest: its MAR-INF/MANIFEST.json.
        times: those of the last batch; None before the first.

    Raises:
        UsageError: the file is missing or not an archive.
        VestalError: the handler does not load; its error is the cause.
    """

    def __init__(
        self, archive: Path, batch_size: int | None = None, *, decode: bool = False
    ) -> None:
        self.times: Times | None = None
        self._decode = decode
        with ExitStack() as opened:
            self.folder = opened.enter_context(unpack_archive(archive)).absolute()
            self.manifest = read_manifest(self.folder, source=archive, handler_required=True)
            if batch_size is None:
                batch_size = batch_size_of(read_settings(self.folder, self.manifest))
            self._modules = ModuleScope(self.folder, self.manifest.handler)
            opened.callback(self._modules.close)
            try:
                with self._modules.entered():
                    self._service = _load(self.folder, self.manifest, batch_size)
            except Exception as error:
                raise VestalError(f"{archive} does not load: {error}") from error
            self._clock = StepClock(self._service._entry_point)
            self._opened = opened.pop_all()

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def handler(self) -> Any:
        """The handler object, or the handler function."""
        entry = self._service._entry_point
        return getattr(entry, "__self__", entry)

    def describe(self) -> Any:
        """Return the handler's description, as `GET /models/NAME?customized=true` does.

        Raises:
            VestalError: the handler has no description; TorchServe's own handlers have none.
        """
        (response,) = self.predict([Input({}, {"describe": "True"})])
        try:
            return response.json()
        except ValueError:
            text = response.body.decode("utf-8", "replace")[:200]
            raise VestalError(
                f"{self.name} {self.version} describes nothing: expected JSON from its handler, "
                f"got status {response.status} and {text!r}"
            ) from None

    def predict(self, inputs: Sequence[Input | bytes]) -> list[Response]:
        """Run one batch; responses are in the order of the inputs."""
        batch = [
            message_of(index, given if isinstance(given, Input) else Input.raw(given), self._decode)
            for index, given in enumerate(inputs)
        ]
        with self._modules.entered():
            message, self.times = self._clock.run(lambda: self._service.predict(batch))
        return responses_of(bytes(message))

    @contextmanager
    def marked(self, mark: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
        """Run every step of a batch within `mark("decode")`, `mark("forward")`, ..."""
        before, self._clock.mark = self._clock.mark, mark
        try:
            yield
        finally:
            self._clock.mark = before

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> LoadedArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_staged(
    folder: Path, name: str, batch_size: int | None = None, *, decode: bool = False
) -> LoadedArchive:
    """Load a temporary folder; errors name the model instead of the folder."""
    try:
        return LoadedArchive(folder, batch_size, decode=decode)
    except VestalError as error:
        cause = error.__cause__ or error
        text = str(cause)  # Vestal's handlers begin with the model's name
        if not text.startswith(f"{name} "):
            text = f"{name} does not load: {text}"
        raise VestalError(text) from cause


@contextmanager
def _without_openvino_backend(folder: Path) -> Iterator[None]:
    """Let an import of OpenVINO's backend for torch.compile fail, unless the archive needs it.

    TorchServe's base handler imports it where openvino is installed, which takes 6 seconds.
    """
    own = (file for file in folder.rglob("*.py") if "vestal_handlers" not in file.parts)
    needed = any(_BACKEND.encode() in file.read_bytes() for file in own if file.is_file())
    blocked = not needed and _BACKEND not in sys.modules
    if blocked:
        sys.modules[_BACKEND] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if blocked:
            sys.modules.pop(_BACKEND, None)


def _load(folder: Path, manifest: Manifest, batch_size: int) -> Any:
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader

    # It warns that OpenVINO is not enabled, which users cannot change.
    logging.getLogger("ts.torch_handler.base_handler").setLevel(logging.ERROR)
    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    # TorchServe imports the handler by its base name and would find an earlier module.
    sys.modules.pop(manifest.handler_module, None)
    with _without_openvino_backend(folder):
        service = TsModelLoader().load(
            manifest.name,
            str(folder),
            manifest.handler,
            gpu_id=None,
            batch_size=batch_size,
            metrics_cache=metrics,
        )
    service.set_cl_socket(None)
    return service
