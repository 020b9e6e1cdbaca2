"""Archives and models under test, in the test's own process: no server, no Java.

    def test_a_seven_is_a_seven(archive):
        (answer,) = archive("model_store/mnist-1.0.mar").predict([Path("seven.png")])
        assert answer.json()["label"] == "7"

The fixture `archive` comes with Vestal's pytest plugin. An input is what `Client.predict` takes,
and goes the way that TorchServe would send it.
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
    """A loaded handler, asked as callers ask a server."""

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
        """All inputs as one batch: an answer for each, in order; also for those refused.

        Args:
            inputs: what `Client.predict` takes: paths, bytes, texts, images, arrays, JSON values;
                or `vestal.inprocess.loaded_archive.Input` for what no client would send.
            headers: on every request; a Content-Type replaces the input's own.
            explain: as for `/explanations`.

        Raises:
            InvalidInput: an input that cannot be sent.
        """
        batch = [one if isinstance(one, Input) else _sent(one, headers or {}) for one in inputs]
        answers, _ = self._frontend.predict_batch(self.loaded, batch, explain=explain)
        return answers

    def describe(self) -> Any:
        """What `GET /models/NAME?customized=true` answers."""
        return self.loaded.describe()

    @property
    def handler(self) -> Any:
        """The handler itself, for what no answer shows."""
        return self.loaded.handler

    @property
    def times(self) -> Times | None:
        """Seconds of the last batch, step by step."""
        return self.loaded.times


def _sent(given: Any, headers: Mapping[str, str]) -> RawRequest:
    payload, rest = encode(given), dict(headers)
    types = [rest.pop(name) for name in list(rest) if name.lower() == "content-type"]
    return RawRequest("", payload.body, [payload.content_type, *types][-1], rest)


class Archives:
    """Loads what tests ask for, each once: what the fixture `archive` gives."""

    def __init__(self, project: Project, opened: ExitStack) -> None:
        self._project, self._opened = project, opened
        self._loaded: dict[tuple[Any, ...], ArchiveUnderTest] = {}

    def __call__(self, target: str | Path, *, batch_size: int = 1, **said: str) -> ArchiveUnderTest:
        """An archive's path or name in the model store, or a model, as of `vestal run`.

        Args:
            batch_size: what the handler warms up for.
            said: of a model, `weights`, `engine` and `precision`; of a packed one, `version`.

        Raises:
            UsageError: there is none.
            VestalError: it does not load.
        """
        key = (str(target), batch_size, *sorted(said.items()))
        if key not in self._loaded:
            frontend = Frontend.of(self._project)
            found = find_runnable(self._project, str(target), **said)
            loaded = self._opened.enter_context(found.loaded(batch_size, decode=frontend.decode))
            self._loaded[key] = ArchiveUnderTest(loaded, frontend)
        return self._loaded[key]


@contextmanager
def archives(project: Project) -> Iterator[Archives]:
    """For tests without pytest: everything is closed at the end."""
    with ExitStack() as opened:
        yield Archives(project, opened)
