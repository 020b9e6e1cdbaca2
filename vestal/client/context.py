"""What a call has at hand: addresses, tokens, a deadline, and what all calls of a client share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from vestal.client.deadline import Deadline
from vestal.client.errors import ClientError
from vestal.client.proxies import without_credentials
from vestal.client.settings import Addresses
from vestal.client.shared import Shared
from vestal.client.steps import Steps
from vestal.client.tokens import Tokens
from vestal.client.tracing import NO_SPAN, Span

T = TypeVar("T")


class Context(NamedTuple):
    """What all requests of one call share.

    `hedge`: a request that may be lost gets a second copy.
    `patient`: False for a question about this very moment (is it ready?): no retries.
    `retries`: the most retries of one request; None: as many as the deadline allows.
    `secrets`: header values that must not appear in errors.
    `model`, `version`: what the whole call is about, for its errors.
    `proxies`: the proxy of each address that is called through one.
    """

    addresses: Addresses
    tokens: Tokens
    deadline: Deadline
    shared: Shared
    span: Span = NO_SPAN
    patient: bool = True
    hedge: bool = True
    retries: int | None = None
    secrets: tuple[str, ...] = ()
    model: str | None = None
    version: str | None = None
    proxies: Mapping[str, str] = MappingProxyType({})

    def impatient(self) -> Context:
        return self._replace(patient=False)

    def place(self, address: str) -> str:
        """An address for an error's text, with the proxy that it is called through."""
        proxy = self.proxies.get(address)
        return f"{address} through the proxy {without_credentials(proxy)}" if proxy else address


def finish(steps: Steps[T], context: Context, error: BaseException | None) -> None:
    """Ends a call, whatever became of it: what its steps hold is given back, its span closed.

    An error that knows no model or version gets the call's.
    """
    steps.close()
    if isinstance(error, ClientError) and error.model in (None, context.model):
        version = error.version or context.version
        error.facts = error.facts._replace(model=context.model, version=version)
    context.span.end(error)
