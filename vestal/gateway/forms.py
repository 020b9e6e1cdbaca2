"""Refuse forms with very many fields: TorchServe makes an object of about 1 kB for each of them.

Two forms with 1.5 million fields each take its Java process to 2 GB.
"""

from __future__ import annotations

from vestal.gateway.protos import Config, typed

MOST_FIELDS = 10_000
"""As Tomcat's maxParameterCount, up to version 10."""
# Netty stops at a part without Content-Disposition. Its forms in forms have one for each part, too.
_ON_REQUEST = """
function envoy_on_request(handle)
  local kind = string.lower(handle:headers():get("content-type") or "")
  local multipart = string.find(kind, "multipart/form-data", 1, true)
  if not multipart and not string.find(kind, "form-urlencoded", 1, true) then return end
  local body = handle:body()
  if not body then return end
  local text = body:getBytes(0, body:length())
  if multipart then text = string.lower(text) end
  local separator = multipart and "content-disposition" or "&"
  local fields, position = multipart and 0 or 1, 0
  while fields <= MOST_FIELDS do
    position = string.find(text, separator, position + 1, true)
    if not position then return end
    fields = fields + 1
  end
  handle:respond({[":status"] = "413"}, "the form has more than MOST_FIELDS fields")
end
""".replace("MOST_FIELDS", str(MOST_FIELDS))


def few_fields() -> Config:
    """Return the filter. The body must have been read before."""
    code = {"inline_string": _ON_REQUEST}
    return typed("few_fields", "extensions.filters.http.lua.v3.Lua", default_source_code=code)
