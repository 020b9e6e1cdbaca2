"""Send requests through the requests adapter that a caller passes as `transport=`."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

import requests
from requests.adapters import BaseAdapter

from vestal.client.connection_options import ConnectionOptions
from vestal.client.deadline import Deadline
from vestal.client.flow import (
    WAITING,
    HTTPRequest,
    HTTPResponse,
    Outcome,
    root_of,
    transport_failure,
)
from vestal.errors import UsageError


class AdapterTransport:
    """One adapter for all addresses. The timeout applies to each of its socket operations."""

    def __init__(self, options: ConnectionOptions) -> None:
        if not isinstance(options.transport, BaseAdapter):
            raise UsageError(
                f"transport is of type {type(options.transport).__name__}: expected a requests "
                "adapter (requests.adapters.BaseAdapter)"
            )
        self._adapter = options.transport
        self._verify, self._cert = options.verify, options.cert

    def send(self, request: HTTPRequest, headers: Mapping[str, str], deadline: Deadline) -> Outcome:
        """Send once, with the caller's headers; never raises for a network error."""
        merged = {**headers, **request.headers}
        prepared = requests.Request(
            request.method, request.url, headers=merged, data=request.body or None
        ).prepare()
        sent = time.monotonic()
        try:
            response = self._adapter.send(
                prepared,
                timeout=deadline.timeout(),
                verify=self._verify,
                cert=self._cert,
                proxies={},
            )
            body = response.content
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            never_sent = isinstance(error, requests.ConnectTimeout) or isinstance(
                root_of(error), (ConnectionRefusedError, socket.gaierror)
            )
            phase = "connecting" if never_sent else WAITING
            return transport_failure(phase, error, sent=not never_sent)
        received = {name.lower(): value for name, value in response.headers.items()}
        return HTTPResponse(response.status_code, response.reason or "", received, body, sent)

    def close(self) -> None:
        self._adapter.close()
