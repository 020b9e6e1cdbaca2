"""Who is asked: weights by engine and transform alone, an archive's handler, a running server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from vestal.client import Client, ClientError
from vestal.client.errors import ConnectionFailed, DeadlineExceeded, NotFound, TokenError
from vestal.evaluation.asking import Label, Progress, RefusedInput, Said, body_at, read_answer
from vestal.inprocess import Input, LoadedArchive
from vestal.recipes.objectives import Classification, NextToken
from vestal.recipes.recipe import Examples, Recipe
from vestal.recipes.request_body import Body
from vestal.runs import TRANSFORMS, Run
from vestal.training.language import module_scorer
from vestal_handlers import engines
from vestal_handlers.errors import InputError
from vestal_handlers.model_files import load_module

CPU = torch.device("cpu")


class Source(Protocol):
    """Something that answers for a model.

    `kind`: "weights", "archive" or "server". `place`: where it is. `version`: as far as known.
    """

    kind: str
    place: str
    version: str | None

    def ask(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Said]:
        """An answer for every example, in order."""


class WeightsSource:
    """A run's weights in this process: engine and transform, no handler."""

    kind = "weights"
    version: str | None = None

    def __init__(self, run: Run, place: str | None = None, output: str | int | None = None) -> None:
        """`output`: which of the model's outputs is measured; None: the only one."""
        self.run, self.place, self.output = run, place or str(run.folder), output

    def ask(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Said]:
        answer = self._scorer() if isinstance(recipe.objective, NextToken) else self._model(recipe)
        said: list[Said] = []
        for start in range(0, len(examples), recipe.batch_size):
            batch = [_decoded(examples, i) for i in _range(start, recipe.batch_size, examples)]
            good = iter(answer([one for one in batch if not isinstance(one, RefusedInput)]))
            said += [one if isinstance(one, RefusedInput) else next(good) for one in batch]
            progress(len(said))
        return said

    def _model(self, recipe: Recipe) -> Callable[[Sequence[Any]], Sequence[Said]]:
        folder, labels = self.run.folder, self.run.labels
        engine = engines.load(folder / self.run.artifacts[0], CPU, output=self.output)
        own = (folder / TRANSFORMS).is_file()
        transform = load_module(folder, "transforms").transform if own else lambda given: given

        @torch.inference_mode()
        def answer(inputs: Sequence[Any]) -> Sequence[Said]:
            if not inputs:
                return []
            outputs = engine(torch.stack([transform(given) for given in inputs]))
            predicted = recipe.objective.predicted(outputs)
            if isinstance(recipe.objective, Classification):
                assert labels is not None
                return [Label(labels[index], index) for index in predicted.argmax(-1).tolist()]
            return [float(value) for value in predicted]

        return answer

    def _scorer(self) -> Callable[[Sequence[Any]], Sequence[Said]]:
        from vestal_handlers.text import language_model

        language = language_model.load(self.run.folder / self.run.artifacts[0], CPU)
        score = module_scorer(language.model, language.tokenizer)

        def answer(texts: Sequence[str]) -> Sequence[Said]:
            return [one(text) for text in texts]

        def one(text: str) -> Said:
            try:
                tokens = len(language.tokens(text))
            except InputError as error:
                return _input_error(error)
            if tokens > language.context:
                message = f"the passage has {tokens} tokens, at most {language.context}"
                return RefusedInput(413, "InputError", message)
            return list(score([text])[0])

        return answer


class ArchiveSource:
    """An archive's own handler in this process."""

    kind = "archive"

    def __init__(self, archive: Path) -> None:
        self.place, self.archive = str(archive), archive
        self.version: str | None = None

    def ask(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Said]:
        said: list[Said] = []
        # Warm for one: every size of batch would take longer to warm up than to run.
        with LoadedArchive(self.archive, batch_size=1) as loaded:
            self.version = loaded.version
            for start in range(0, len(examples), recipe.batch_size):
                indices = _range(start, recipe.batch_size, examples)
                bodies = [body_at(recipe, examples, index) for index in indices]
                inputs = [Input.raw(body.content, body.content_type) for body in bodies]
                for answer in loaded.predict(inputs):
                    if answer.status != 200:
                        said.append(_refused(answer.status, answer.body))
                    else:
                        said.append(read_answer(recipe, answer.json(), self.place))
                progress(len(said))
        return said


class ServedSource:
    """A model behind a server, asked by the client: deadlines, retries and tokens are its own."""

    kind = "server"

    def __init__(self, client: Client, place: str, model: str, version: str | None) -> None:
        self.client, self.place, self.model, self.version = client, place, model, version

    def ask(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Said]:
        inputs = (_sent(body_at(recipe, examples, index)) for index in range(len(examples)))
        # The first alone: what is true of the server is said once, not after every deadline.
        asked = self.client.predict_many(self.model, islice(inputs, 1), version=self.version)
        for error in asked:
            if isinstance(error, DeadlineExceeded | ConnectionFailed | NotFound | TokenError):
                raise error
        asked += self.client.predict_many(
            self.model, inputs, version=self.version, progress=lambda done, _: progress(done + 1)
        )
        said: list[Said] = []
        for answer in asked:
            if isinstance(answer, ConnectionFailed | NotFound | TokenError):
                raise answer
            if isinstance(answer, ClientError):
                kind = answer.server_type or type(answer).__name__
                said.append(RefusedInput(answer.status, kind, answer.server_message or str(answer)))
            else:
                self.version = answer.version or self.version
                said.append(read_answer(recipe, answer.value, self.place))
        return said


def _range(start: int, size: int, examples: Examples) -> range:
    return range(start, min(start + size, len(examples)))


def _decoded(examples: Examples, index: int) -> Any:
    try:
        return examples[index][0]
    except InputError as error:
        return _input_error(error)


def _input_error(error: InputError) -> RefusedInput:
    return RefusedInput(error.status, type(error).__name__, error.message)


def _sent(body: Body) -> Any:
    """What the client sends as this body."""
    return json.loads(body.content) if body.suffix == ".json" else body.content


def _refused(status: int, body: bytes) -> RefusedInput:
    try:
        told = json.loads(body)
        return RefusedInput(status, str(told["type"]), str(told["message"]))
    except (ValueError, KeyError, TypeError):
        return RefusedInput(status, "Error", body.decode("utf-8", "replace")[:200])
