"""Error responses of the gateway, and changes of those of TorchServe."""

from __future__ import annotations

from vestal.gateway.protos import Config, typed

_ERRORS = {
    400: "BadRequest",
    401: "InvalidKeyException",  # as TorchServe's, so that the client reports the token
    403: "Forbidden",
    404: "ModelNotFoundException",
    408: "RequestTimeout",
    413: "BodyTooLarge",
    429: "TooManyRequests",
    431: "HeadersTooLarge",
    503: "ServiceUnavailableException",
    504: "GatewayTimeout",
}
"""`type` of the gateway's own error responses by status."""
# After a restart, TorchServe does not have the models yet, and when a new key is made, it refuses
# the old one at once. The gateway's own responses and those of handlers are not changed.
_ON_RESPONSE = """
local reasons = {
  InvalidKeyException = "the token of TorchServe was renewed",
  ModelNotFoundException = "the model is not loaded",
  ModelVersionNotFoundException = "this version is not loaded",
}
function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status ~= "400" and status ~= "404" then return end
  if headers:get("x-model-name") or not headers:get("x-request-id") then return end
  local body = handle:body()  -- the object `headers` cannot be used after this call
  if not body or body:length() > 1000 then return end
  local kind = string.match(body:getBytes(0, body:length()), '"type": *"(%w+)"')
  local reason = reasons[kind or ""]
  if not reason then return end
  local message = '{"code":503,"type":"ServiceUnavailableException","message":"' .. reason .. '"}'
  handle:headers():replace(":status", "503")
  handle:headers():replace("retry-after", "0.1")
  handle:headers():replace("content-length", body:setBytes(message))
end
"""
"""Turns a refusal by TorchServe that will not last into a response that is worth a retry."""


def local_replies() -> Config:
    """Return how the gateway's own errors look: as TorchServe's."""
    mappers = [_mapper(status, kind) for status, kind in _ERRORS.items()]
    return {"mappers": mappers}


def _mapper(status: int, kind: str) -> Config:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": "gateway.unused"}}
    message = "%LOCAL_REPLY_BODY% (%RESPONSE_CODE_DETAILS%)"
    body = {"code": "%RESPONSE_CODE%", "type": kind, "message": message}
    mapper: Config = {
        "filter": {"status_code_filter": {"comparison": comparison}},
        "body_format_override": {"json_format": body},
    }
    if status in (429, 503):
        retry = {"header": {"key": "retry-after", "value": "1"}}
        mapper["headers_to_add"] = [retry]
    return mapper


def worth_a_retry() -> Config:
    """Return the filter that changes TorchServe's responses."""
    code = {"inline_string": _ON_RESPONSE}
    return typed("worth_a_retry", "extensions.filters.http.lua.v3.Lua", default_source_code=code)
