"""Options and schema of text generation, and the prompt of a request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options, number
from vestal_handlers.requests.fields import parse_fields
from vestal_handlers.requests.schema import validate
from vestal_handlers.text.chat import ROLES
from vestal_handlers.text.language_model import LanguageModel
from vestal_handlers.text.sampling import GREEDY_BELOW, Sampling

# Fields that have no effect with "score".
_GENERATION_FIELDS = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop")


@dataclass(frozen=True, kw_only=True)
class TextGeneratorOptions(Options):
    """
    Attributes:
        max_new_tokens: the default for a request.
        max_new_tokens_limit: the maximum that a request may set.
        max_prompt_tokens: tokens of one prompt; None: the model's context.
        max_prompt_chars: characters of one prompt, before it is tokenized.
        max_stop: stop strings of one request.
        max_stop_chars: characters of one stop string.
        max_cache_tokens: rows times tokens of a batch in the key-value cache at once (GPT-2 takes
            72 KiB per token).
        max_seconds: time limit of one batch, at which texts end early. None: 0.8 of
            responseTimeout.
        chat: a body that is only a text is the message of a user, not a prompt.
        max_messages: messages of one request.
    """

    max_new_tokens: int = number(64, at_least=1)
    max_new_tokens_limit: int = number(256, at_least=1)
    max_prompt_tokens: int | None = number(None, at_least=1)
    max_prompt_chars: int = number(200_000, at_least=1)
    max_stop: int = number(8, at_least=1)
    max_stop_chars: int = number(64, at_least=1)
    max_cache_tokens: int = number(16_384, at_least=1)
    max_seconds: float | None = number(None, at_least=0)
    chat: bool = False
    max_messages: int = number(100, at_least=1)


@dataclass(frozen=True)
class Prompt:
    """A checked request: a sample of the text generator.

    Attributes:
        tokens: token ids, at least one.
        dropped: the number of tokens cut on the left; None if the request did not allow truncation.
        sampling: None: greedy.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling | None = None
    stop: tuple[str, ...] = ()
    score: bool = False
    dropped: int | None = None


def object_schema(options: TextGeneratorOptions, field: str = "prompt") -> dict[str, Any]:
    """JSON Schema of a request that is an object.

    Args:
        field: where its text is: prompt or messages.
    """
    texts = {"prompt": {"type": "string"}, "messages": _messages_schema(options)}
    stop = {"type": "string", "minLength": 1, "maxLength": options.max_stop_chars}
    return {
        "type": "object",
        "properties": {
            field: texts[field],
            "max_new_tokens": {
                "type": "integer",
                "minimum": 1,
                "maximum": options.max_new_tokens_limit,
            },
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "top_k": {"type": "integer", "minimum": 1},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
            "stop": {
                "anyOf": [
                    stop,
                    {"type": "array", "items": stop, "minItems": 1, "maxItems": options.max_stop},
                ]
            },
            "score": {"type": "boolean"},
            "truncate": {"type": "boolean"},
        },
        "required": [field],
        "additionalProperties": False,
    }


def _messages_schema(options: TextGeneratorOptions) -> dict[str, Any]:
    message = {
        "type": "object",
        "properties": {"role": {"enum": list(ROLES)}, "content": {"type": "string"}},
        "required": ["role", "content"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": message, "minItems": 1, "maxItems": options.max_messages}


def read_prompt(
    payload: Any, form: bool, language: LanguageModel, options: TextGeneratorOptions
) -> Prompt:
    """Read a payload: a prompt as str, or an object.

    Args:
        form: whether the values are form fields, so that numbers and booleans are strings.

    Raises:
        InputError: 413 too long, 415 neither text nor an object, 422 a field that is not valid.
    """
    if isinstance(payload, str):
        message = {"role": "user", "content": payload}
        payload = {"messages": [message]} if options.chat else {"prompt": payload}
    if not isinstance(payload, Mapping):
        raise InputError(
            415, "expected a prompt: text, or an object with the field 'prompt' or 'messages'"
        )
    schema = object_schema(options, "messages" if "messages" in payload else "prompt")
    request = parse_fields(payload, schema["properties"]) if form else dict(payload)
    validate(request, schema, "the request")
    score = request.get("score", False)
    unused = [name for name in _GENERATION_FIELDS if score and name in request]
    if unused:
        raise InputError(
            422, f"field '{unused[0]}' has no effect with score, which generates no text; remove it"
        )
    max_new_tokens = int(request.get("max_new_tokens", options.max_new_tokens))
    tokens, dropped = _tokens(request, 0 if score else max_new_tokens, language, options)
    stop = request.get("stop", [])
    return Prompt(
        tokens=tuple(tokens),
        max_new_tokens=max_new_tokens,
        sampling=_sampling(request),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        score=score,
        dropped=dropped,
    )


def _sampling(request: Mapping[str, Any]) -> Sampling | None:
    """The sampling parameters, or None for greedy; top_k or top_p imply temperature 1."""
    default = 1.0 if "top_k" in request or "top_p" in request else 0.0
    temperature = float(request.get("temperature", default))
    if temperature < GREEDY_BELOW:
        return None
    return Sampling(
        temperature=temperature,
        top_k=int(request.get("top_k", 0)),
        top_p=float(request.get("top_p", 1)),
        seed=int(request["seed"]) if "seed" in request else secrets.randbits(32),
    )


def _tokens(
    request: Mapping[str, Any],
    new_tokens: int,
    language: LanguageModel,
    options: TextGeneratorOptions,
) -> tuple[list[int], int | None]:
    """The tokens of the prompt, and the number of tokens that were cut on its left."""
    messages = request.get("messages", [])
    count = len(request.get("prompt", "")) + sum(len(each["content"]) for each in messages)
    if count > options.max_prompt_chars:
        raise InputError(
            413,
            f"the prompt has {count:,} characters, at most {options.max_prompt_chars:,} "
            "(handler.max_prompt_chars)",
        )
    tokens = language.message_tokens(messages) if messages else language.tokens(request["prompt"])
    # The context needs room for at least one new token.
    limit = language.context - (1 if new_tokens else 0)
    limit = min(limit, options.max_prompt_tokens or limit)
    if not request.get("truncate"):
        if len(tokens) > limit:
            raise InputError(
                413,
                f"the prompt has {len(tokens):,} tokens, at most {limit:,} "
                f"(handler.max_prompt_tokens; the model's context is {language.context:,}): "
                "shorten it, or send truncate: true to keep its end",
            )
        return tokens, None
    # Room for the new tokens, but at most half of the limit for the prompt.
    room = max(language.context - new_tokens, limit // 2, 1)
    tail = tokens[-min(limit, room) :]
    return tail, len(tokens) - len(tail)
