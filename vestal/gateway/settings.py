"""Settings of the gateway, as the keeper stores them in the desired state."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sticky(_Part):
    """The header or the cookie that identifies a user."""

    header: str | None = None
    cookie: str | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.header is None) == (self.cookie is None):
            raise ValueError("expected either a header or a cookie")
        return self


class Tls(_Part):
    """Absolute paths of PEM files."""

    certificate: str
    key: str


class Gateway(_Part):
    """Where the gateway listens, and its limits.

    `port` 0: a free one. `api_keys`: absolute path of the file; None: no key is needed. `max_body`:
    bytes; None: as TorchServe. `rate_limit`: requests per second of one client. `body_timeout`: for
    a whole request. `response_timeout`: without a byte of the response.
    """

    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    tls: Tls | None = None
    api_keys: str | None = None
    max_body: Positive | None = None
    max_connections: Positive = 1000
    rate_limit: Positive | None = None
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    response_timeout: Seconds = 120.0
