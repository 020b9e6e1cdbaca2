"""Runs an archive's handler in this process, without Java.

TorchServe's own `ModelLoader`, `Service` and `Context` do it, and what comes back is read from the
very bytes that a worker would send to the frontend: status, headers and body of every request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.inprocess.messages import Answer, Input, answers_of, message_of
from vestal.inprocess.module_scope import ModuleScope
from vestal.inprocess.timing import StepClock, Times
from vestal.mar.unpacking import batch_size_of, manifest_of, unpacked


class LoadedArchive:
    """A handler, loaded and warm.

    While it loads and answers, its folder is the working directory and first on sys.path, as in a
    worker; several archives of one process take turns. The archive's own copy of `vestal_handlers`
    is used only where that package is not imported yet: in one process there is one.

    Args:
        archive: a .mar, a .tar.gz, or the folder that one of them unpacks to.
        batch_size: what the handler warms up for; None: what model-config.yaml says.
        decode: hand over JSON and text decoded, as a server with decode_input_request=true does,
            TorchServe's default; Vestal's config.properties has false.

    Attributes:
        folder: the unpacked archive, an absolute path.
        manifest: its MAR-INF/MANIFEST.json.
        times: of the last batch; None before the first.

    Raises:
        UsageError: there is no archive, or it is none.
        VestalError: it does not load; the handler's own error is its cause.
    """

    def __init__(
        self, archive: Path, batch_size: int | None = None, *, decode: bool = False
    ) -> None:
        self.times: Times | None = None
        self._decode = decode
        with ExitStack() as opened:
            self.folder = opened.enter_context(unpacked(archive)).absolute()
            self.manifest = manifest_of(self.folder, archive)
            model = self.manifest["model"]
            if batch_size is None:
                batch_size = batch_size_of(self.folder, model)
            self._work = ModuleScope(self.folder, model["handler"])
            opened.callback(self._work.close)
            try:
                with self._work.entered():
                    self._service = _load(self.folder, model, batch_size)
            except Exception as error:
                raise VestalError(f"{archive} does not load: {error}") from error
            self._clock = StepClock(self._service._entry_point)
            self._opened = opened.pop_all()

    @property
    def name(self) -> str:
        return str(self.manifest["model"]["modelName"])

    @property
    def version(self) -> str:
        return str(self.manifest["model"].get("modelVersion", ""))

    @property
    def handler(self) -> Any:
        """The handler object, or the function that is one."""
        entry = self._service._entry_point
        return getattr(entry, "__self__", entry)

    def describe(self) -> Any:
        """What `?customized=true` answers.

        Raises:
            VestalError: the handler describes nothing, as TorchServe's own do not.
        """
        (answer,) = self.predict([Input({}, {"describe": "True"})])
        try:
            return answer.json()
        except ValueError:
            text = answer.body.decode("utf-8", "replace")[:200]
            raise VestalError(
                f"{self.name} {self.version} describes nothing: expected JSON from its handler, "
                f"got status {answer.status} and {text!r}"
            ) from None

    def predict(self, inputs: Sequence[Input | bytes]) -> list[Answer]:
        """One batch through the handler: an answer for every input, in order."""
        batch = [
            message_of(index, given if isinstance(given, Input) else Input.raw(given), self._decode)
            for index, given in enumerate(inputs)
        ]
        with self._work.entered():
            message, self.times = self._clock.run(lambda: self._service.predict(batch))
        return answers_of(bytes(message))

    @contextmanager
    def marked(self, mark: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
        """Runs every step of a batch within `mark("decode")`, `mark("forward")`, ..."""
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
    """A folder that is there for the moment: in errors its model's name stands for it."""
    try:
        return LoadedArchive(folder, batch_size, decode=decode)
    except VestalError as error:
        cause = error.__cause__ or error
        text = str(cause)  # a handler of ours says whose it is
        said = text if text.startswith(f"{name} ") else f"{name} does not load: {text}"
        raise VestalError(said) from cause


def _load(folder: Path, model: Mapping[str, Any], batch_size: int) -> Any:
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader

    # "OpenVINO is not enabled": nothing that a user could act on.
    logging.getLogger("ts.torch_handler.base_handler").setLevel(logging.ERROR)
    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    # The handler is imported by its base name: an earlier module must not answer for it.
    sys.modules.pop(Path(model["handler"].split(":")[0]).name.removesuffix(".py"), None)
    service = TsModelLoader().load(
        model["modelName"],
        str(folder),
        model["handler"],
        gpu_id=None,
        batch_size=batch_size,
        metrics_cache=metrics,
    )
    service.set_cl_socket(None)
    return service
