"""Run archives and models in the process of a test, without a server.

    def test_seven(archive):
        (response,) = archive("model_store/mnist-1.0.mar").predict([Path("seven.png")])
        assert response.json()["label"] == "7"

The fixture `archive` is in `vestal.testing.plugin`. Inputs are those of `Client.predict`; the
handler receives them as TorchServe would pass them on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vestal.archive.runnable import find_runnable
from vestal.client.encoding import encode
from vestal.inprocess import LoadedArchive
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Input, Response
from vestal.inprocess.timing import Times
from vestal.project import Project


class ArchiveUnderTest:
    """A loaded handler that receives requests as it would from a server."""

    def __init__(self, loaded: LoadedArchive, frontend: Frontend) -> None:
        self.loaded = loaded
        self._frontend = frontend

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        headers: Mapping[str, str] | None = None,
        explain: bool = False,
    ) -> list[Response]:
        """Send all inputs as one batch; return a response for each, in order.

        Args:
            inputs: as for `Client.predict`: paths, bytes, texts, images, arrays, JSON values; or
                `vestal.inprocess.Input` for requests that no client sends.
            headers: of every request; Content-Type replaces the input's own.
            explain: request explanations instead of predictions.

        Raises:
            InvalidInput: an input that cannot be sent.
        """
        batch = [
            each if isinstance(each, Input) else _encode(each, headers or {}) for each in inputs
        ]
        answers, _ = self._frontend.predict_batch(self.loaded, batch, explain=explain)
        return answers

    def describe(self) -> Any:
        """Return the handler's description, as in `GET /models/NAME?customized=true`."""
        return self.loaded.describe()

    @property
    def handler(self) -> Any:
        """The handler object."""
        return self.loaded.handler

    @property
    def times(self) -> Times | None:
        """Seconds that each step of the last batch took."""
        return self.loaded.times


def _encode(value: Any, headers: Mapping[str, str]) -> RawRequest:
    payload, rest = encode(value), dict(headers)
    types = [rest.pop(name) for name in list(rest) if name.lower() == "content-type"]
    return RawRequest("", payload.body, [payload.content_type, *types][-1], rest)


class ArchiveLoader:
    """Loads archives and models, each once; the value of the fixture `archive`."""

    def __init__(self, project: Project, stack: ExitStack) -> None:
        self._project, self._stack = project, stack
        self._loaded: dict[tuple[Any, ...], ArchiveUnderTest] = {}

    def __call__(
        self, target: str | Path, *, batch_size: int = 1, **options: str
    ) -> ArchiveUnderTest:
        """Load an archive (a path, or a name in the model store) or a model.

        Args:
            batch_size: largest batch; the handler is warmed up for it.
            options: `weights`, `engine` and `precision` of a model; `version` of an archive.

        Raises:
            UsageError: there is no such archive or model.
            VestalError: it does not load.
        """
        key = (str(target), batch_size, *sorted(options.items()))
        if key not in self._loaded:
            frontend = Frontend.of(self._project)
            found = find_runnable(self._project, str(target), **options)
            loaded = self._stack.enter_context(found.loaded(batch_size, decode=frontend.decode))
            self._loaded[key] = ArchiveUnderTest(loaded, frontend)
        return self._loaded[key]


@contextmanager
def load_archives(project: Project) -> Iterator[ArchiveLoader]:
    """Yield a loader, for tests without pytest; close everything that it loaded."""
    with ExitStack() as stack:
        yield ArchiveLoader(project, stack)
