"""Sources of predictions: weights in this process, an archive's handler, a model on a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from vestal.client import Client, ClientError
from vestal.client.errors import ConnectionFailed, DeadlineExceeded, NotFound, TokenError
from vestal.evaluation.predictions import (
    Label,
    Outcome,
    Progress,
    RefusedInput,
    read_prediction,
    request_body,
)
from vestal.inprocess import Input, LoadedArchive
from vestal.recipes.objectives import Classification, NextToken
from vestal.recipes.recipe import Examples, Recipe, identity
from vestal.recipes.request_body import RequestBody
from vestal.runs import TRANSFORMS, Run
from vestal.training.language import module_scorer
from vestal_handlers import engines
from vestal_handlers.errors import InputError
from vestal_handlers.model_files import load_module

CPU = torch.device("cpu")


class Source(Protocol):
    """A source of a model's predictions.

    Attributes:
        kind: "weights", "archive" or "server".
        place: path or URL.
        version: version of the model, if known.
    """

    kind: str
    place: str
    version: str | None

    def predict(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Outcome]:
        """Return an outcome for every example, in order."""


class WeightsSource:
    """The weights of a run in this process: engine and transform, without a handler."""

    kind = "weights"
    version: str | None = None

    def __init__(self, run: Run, place: str | None = None, output: str | int | None = None) -> None:
        """`output`: the output to measure, by name or index; None: the only one."""
        self.run, self.place, self.output = run, place or str(run.folder), output

    def predict(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Outcome]:
        predict = self._scorer() if isinstance(recipe.objective, NextToken) else self._model(recipe)
        outcomes: list[Outcome] = []
        for start in range(0, len(examples), recipe.batch_size):
            batch = [_decode(examples, i) for i in _range(start, recipe.batch_size, examples)]
            decoded = [value for value in batch if not isinstance(value, RefusedInput)]
            predictions = iter(predict(decoded))
            outcomes += [v if isinstance(v, RefusedInput) else next(predictions) for v in batch]
            progress(len(outcomes))
        return outcomes

    def _model(self, recipe: Recipe) -> Callable[[Sequence[Any]], Sequence[Outcome]]:
        folder, labels = self.run.folder, self.run.labels
        engine = engines.load(folder / self.run.artifacts[0], CPU, output=self.output)
        has_transforms = (folder / TRANSFORMS).is_file()
        transform = load_module(folder, "transforms").transform if has_transforms else identity

        @torch.inference_mode()
        def predict(inputs: Sequence[Any]) -> Sequence[Outcome]:
            if not inputs:
                return []
            outputs = engine(torch.stack([transform(value) for value in inputs]))
            predicted = recipe.objective.predicted(outputs)
            if isinstance(recipe.objective, Classification):
                assert labels is not None
                return [Label(labels[index], index) for index in predicted.argmax(-1).tolist()]
            return [float(value) for value in predicted]

        return predict

    def _scorer(self) -> Callable[[Sequence[Any]], Sequence[Outcome]]:
        from vestal_handlers.text import language_model

        language = language_model.load(self.run.folder / self.run.artifacts[0], CPU)
        score = module_scorer(language.model, language.tokenizer)

        def predict(texts: Sequence[str]) -> Sequence[Outcome]:
            return [score_one(text) for text in texts]

        def score_one(text: str) -> Outcome:
            try:
                tokens = len(language.tokens(text))
            except InputError as error:
                return _input_error(error)
            if tokens > language.context:
                message = f"the passage has {tokens} tokens; the limit is {language.context}"
                return RefusedInput(413, "InputError", message)
            return list(score([text])[0])

        return predict


class ArchiveSource:
    """The handler of an archive in this process."""

    kind = "archive"

    def __init__(self, archive: Path) -> None:
        self.place, self.archive = str(archive), archive
        self.version: str | None = None

    def predict(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Outcome]:
        outcomes: list[Outcome] = []
        # Warming up every batch size would take longer than the evaluation.
        with LoadedArchive(self.archive, batch_size=1) as loaded:
            self.version = loaded.version
            for start in range(0, len(examples), recipe.batch_size):
                indices = _range(start, recipe.batch_size, examples)
                bodies = [request_body(recipe, examples, index) for index in indices]
                inputs = [Input.raw(body.content, body.content_type) for body in bodies]
                for response in loaded.predict(inputs):
                    if response.status != 200:
                        outcomes.append(_refused_input(response.status, response.body))
                    else:
                        outcomes.append(read_prediction(recipe, response.json(), self.place))
                progress(len(outcomes))
        return outcomes


class ServedSource:
    """A model on a server, with the deadlines, retries and tokens of the client."""

    kind = "server"

    def __init__(self, client: Client, place: str, model: str, version: str | None) -> None:
        self.client, self.place, self.model, self.version = client, place, model, version

    def predict(self, recipe: Recipe, examples: Examples, progress: Progress) -> list[Outcome]:
        inputs = (
            _client_input(request_body(recipe, examples, index)) for index in range(len(examples))
        )
        # The first input alone, so that an unreachable server is found after one deadline.
        predictions = self.client.predict_many(self.model, islice(inputs, 1), version=self.version)
        for error in predictions:
            if isinstance(error, DeadlineExceeded | ConnectionFailed | NotFound | TokenError):
                raise error
        predictions += self.client.predict_many(
            self.model, inputs, version=self.version, progress=lambda done, _: progress(done + 1)
        )
        outcomes: list[Outcome] = []
        for prediction in predictions:
            if isinstance(prediction, ConnectionFailed | NotFound | TokenError):
                raise prediction
            if isinstance(prediction, ClientError):
                kind = prediction.server_type or type(prediction).__name__
                message = prediction.server_message or str(prediction)
                outcomes.append(RefusedInput(prediction.status, kind, message))
            else:
                self.version = prediction.version or self.version
                outcomes.append(read_prediction(recipe, prediction.value, self.place))
        return outcomes


def _range(start: int, size: int, examples: Examples) -> range:
    return range(start, min(start + size, len(examples)))


def _decode(examples: Examples, index: int) -> Any:
    try:
        return examples[index][0]
    except InputError as error:
        return _input_error(error)


def _input_error(error: InputError) -> RefusedInput:
    return RefusedInput(error.status, type(error).__name__, error.message)


def _client_input(body: RequestBody) -> Any:
    """The value that the client encodes as this body."""
    return json.loads(body.content) if body.suffix == ".json" else body.content


def _refused_input(status: int, body: bytes) -> RefusedInput:
    try:
        error = json.loads(body)
        return RefusedInput(status, str(error["type"]), str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return RefusedInput(status, "Error", body.decode("utf-8", "replace")[:200])
