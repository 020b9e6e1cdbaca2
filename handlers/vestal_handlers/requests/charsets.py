"""Decode text by the charset in its Content-Type, or else as UTF-8.

TorchServe passes on the Content-Type of a request, but not the charset of a part of a form, so
parts must be UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from encodings import normalize_encoding
from encodings.aliases import aliases

from vestal_handlers.errors import InputError

# Python caches every codec name that it looks up, so only known names are looked up. The codecs
# here are not charsets, or accept text that is not valid Unicode.
_EXCLUDED = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec"}
_EXCLUDED |= {"zlib_codec", "mbcs", "utf_7"}
_CODECS = set(aliases.values()) - _EXCLUDED
_BOM = "\ufeff"
_MULTIPART = "multipart/"


def codec_of(content_type: str) -> str | None:
    """Return the Python codec of a Content-Type's charset; None for UTF-8.

    Raises:
        InputError: 415 an unknown charset.
    """
    if "charset" not in content_type.lower():
        return None
    header = Message()
    header["content-type"] = content_type
    name = header.get_param("charset", "")
    if not name:
        return None
    # A tuple is a value encoded by RFC 2231, whose own charset would need a lookup.
    name = normalize_encoding(name).lower() if isinstance(name, str) else str(name)
    codec = aliases.get(name, name)
    if codec not in _CODECS:
        raise InputError(415, f"charset {name[:40]!r} is unknown; send UTF-8")
    return None if codec in ("utf_8", "ascii") else codec


def decode_text(data: bytes | bytearray, codec: str) -> str:
    """Return a text without its byte order mark.

    Args:
        codec: the codec of the declared charset, from `codec_of`.

    Raises:
        InputError: 400 the bytes are not valid in the declared charset.
    """
    try:
        return bytes(data).decode(codec).removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise InputError(
            400, f"the text is not {codec} (byte {error.start}), the charset in its Content-Type"
        ) from None
    except LookupError:  # a codec that this Python was built without
        raise InputError(415, f"charset {codec} is unknown; send UTF-8") from None


def text_or_bytes(data: bytes | bytearray, codec: str | None) -> str | bytes | bytearray:
    """Return text; without a declared charset, bytes that are not UTF-8 are returned unchanged."""
    if codec:
        return decode_text(data, codec)
    try:
        return bytes(data).decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError:
        return data


def text_of(payload: bytes | bytearray, headers: Mapping[str, str], what: str) -> str:
    """Return a payload's bytes as text.

    Args:
        headers: those of the request, with names in lower case.
        what: names the text in messages: "the prompt".

    Raises:
        InputError: not UTF-8: 415 in a form, where a part may have another charset; 400 elsewhere.
    """
    try:
        return bytes(payload).decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        if is_multipart(headers):
            raise charset_error(what) from None
        raise InputError(
            400,
            f"{what} is not UTF-8 (byte {error.start}); send it as UTF-8, or declare its charset, "
            "for example Content-Type: text/plain; charset=iso-8859-1",
        ) from None


def is_multipart(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").strip().lower().startswith(_MULTIPART)


def charset_error(what: str) -> InputError:
    """Return the error for a part of a form that is not UTF-8."""
    return InputError(
        415,
        f"{what} in this form is not UTF-8, and TorchServe does not pass on the charset of a "
        "part; send it as UTF-8, or as the whole body with its charset in Content-Type",
    )
