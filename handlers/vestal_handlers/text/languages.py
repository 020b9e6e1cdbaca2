"""The languages of a translation by NLLB, mBART and mBART-50: tokens that a request chooses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options
from vestal_handlers.requests.schema import validate


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(Options):
    """
    Attributes:
        src_lang: the language of texts, for a model of several languages, unless a request names
            it; None: as the folder says.
        tgt_lang: the language to translate to, unless a request names it; None: as the folder
            says, or each request names it.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None


class Languages:
    """The languages of a tokenizer; none for a model of one language, or of one pair.

    Args:
        tokenizer: a tokenizer of transformers. Threads share it, so its `src_lang`, which replaces
            the tokens that it adds, is never set.
        generation_config: of the model; if it forces the first token, requests need no language.

    Raises:
        ValueError: an option is not one of the languages, or there are none.
    """

    def __init__(self, tokenizer: Any, options: LanguageOptions, generation_config: Any) -> None:
        # transformers has no other list of the codes. A folder may name a code of its own.
        known = getattr(sys.modules[type(tokenizer).__module__], "FAIRSEQ_LANGUAGE_CODES", [])
        own = (tokenizer.src_lang, tokenizer.tgt_lang) if known else (None, None)
        codes = dict.fromkeys([*known, *filter(None, own)])
        ids = {code: tokenizer.convert_tokens_to_ids(code) for code in codes}
        self._ids = {code: ids[code] for code in codes if ids[code] != tokenizer.unk_token_id}
        chosen = {"src_lang": options.src_lang, "tgt_lang": options.tgt_lang}
        chosen = {name: code for name, code in chosen.items() if code is not None}
        if chosen and not self._ids:
            raise ValueError(f"handler.{min(chosen)} is set, but the model has no languages")
        try:
            validate(
                chosen, {"properties": self.fields(), "additionalProperties": False}, "handler"
            )
        except InputError as error:
            raise ValueError(f"handler of model-config.yaml: {error}") from None
        source, target = (code if code in self._ids else None for code in own)
        self._added = self._ids.get(source or "")
        self._source, self._target = options.src_lang or source, options.tgt_lang or target
        # A model that was trained for one pair starts its texts with their language.
        starts = (generation_config.forced_bos_token_id, generation_config.decoder_start_token_id)
        self._fixed = bool(set(starts) & set(self._ids.values()))

    def fields(self) -> dict[str, Any]:
        """JSON Schemas of the fields of a request, named as in transformers."""
        codes = {"enum": list(self._ids)}
        return {"src_lang": codes, "tgt_lang": codes} if self._ids else {}

    def example(self) -> dict[str, str]:
        """The fields of an example: a language to translate to, if every request must name one."""
        if not self._ids or self._target or self._fixed:
            return {}
        return {"tgt_lang": next(code for code in self._ids if code != self._source)}

    def inputs(
        self, tensors: Mapping[str, Tensor], encoding: Encoding, request: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The inputs of the model, with the token of the source language that a request names."""
        source, ids = request.get("src_lang", self._source), tensors["input_ids"]
        if source is not None and self._added is not None:
            special = torch.tensor(encoding.special_tokens_mask, dtype=torch.bool)
            ids = ids.masked_fill(special & (ids == self._added), self._ids[source])
        return {**tensors, "input_ids": ids}

    def settings(self, request: Mapping[str, Any]) -> Sequence[tuple[str, int]]:
        """The argument of `generate` that chooses the language, if there is one.

        Raises:
            InputError: 422, neither the request nor the options name one.
        """
        target = request.get("tgt_lang", self._target)
        if target is not None:
            return [("forced_bos_token_id", self._ids[target])]
        if self._ids and not self._fixed:
            raise InputError(
                422,
                "the language to translate to is missing: add field 'tgt_lang', or set "
                "handler.tgt_lang",
            )
        return []
