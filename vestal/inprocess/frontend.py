"""TorchServe's Java side for a handler that runs here: it takes requests, or refuses them.

body, headers -> `receive` -> Input -> batch -> handler -> Answer
                           -> RefusedRequest ---------> Answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vestal.inprocess.loaded_archive import LoadedArchive
from vestal.inprocess.messages import Answer, Input, RefusedRequest
from vestal.inprocess.timing import Times
from vestal.project import Project

# TorchServe's own, where config.properties says nothing.
MAX_REQUEST_SIZE = 6_553_500


@dataclass(frozen=True)
class Sent:
    """What a caller sends. `name` is for people."""

    name: str
    body: bytes = field(repr=False)
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What went through the handler together; `times` is None where nothing reached it."""

    sent: list[Sent]
    answers: list[Answer]
    times: Times | None


@dataclass(frozen=True)
class Frontend:
    """`max_request_size`: bytes of a body. `decode`: config.properties' decode_input_request."""

    max_request_size: int = MAX_REQUEST_SIZE
    decode: bool = True

    @classmethod
    def of(cls, project: Project) -> Frontend:
        """As the project's config.properties says, or the one that comes with Vestal.

        Raises:
            VestalError: it cannot be read.
            UsageError: a setting is invalid.
        """
        from vestal.configuration.config import Configuration

        configuration = Configuration.load(project)
        return cls(
            configuration.integer("max_request_size"), configuration.flag("decode_input_request")
        )

    def receive(self, sent: Sent, *, explain: bool = False) -> Input:
        """The request as a worker gets it.

        Raises:
            RefusedRequest: TorchServe answers it itself.
        """
        if len(sent.body) > self.max_request_size:
            # Netty's own answer: it has no body, whatever the reason says.
            reason = f"more than {self.max_request_size:,} bytes (max_request_size)"
            raise RefusedRequest(413, "", reason)
        return Input.from_http(sent.body, sent.content_type, sent.headers, explain=explain)

    def ask(
        self, loaded: LoadedArchive, sent: Sequence[Sent], size: int = 1, *, explain: bool = False
    ) -> list[Batch]:
        """Sends everything, `size` requests a batch; an answer for every one, in order."""
        batches = []
        for start in range(0, len(sent), size):
            group = list(sent[start : start + size])
            answers, times = self.answers(loaded, group, explain=explain)
            batches.append(Batch(group, answers, times))
        return batches

    def answers(
        self, loaded: LoadedArchive, batch: Sequence[Sent | Input], *, explain: bool = False
    ) -> tuple[list[Answer], Times | None]:
        """One batch: an answer for each, also for those refused; times where a handler was asked.

        An `Input` is given to the handler as it is.
        """
        received: list[Input | Answer] = []
        for each in batch:
            try:
                if not isinstance(each, Input):
                    each = self.receive(each, explain=explain)
                received.append(each)
            except RefusedRequest as refused:
                received.append(Answer.of(refused))
        inputs = [each for each in received if isinstance(each, Input)]
        said = iter(loaded.predict(inputs) if inputs else [])
        answers = [next(said) if isinstance(each, Input) else each for each in received]
        return answers, loaded.times if inputs else None
