"""The decoding loop, in which sequences with their own parameters share a batch and a cache.

    add: prompts -> cache and next logits
    step: logits -> one token per row -> finished rows leave -> forward -> logits

Rows are aligned on the right in the cache: a shorter row has masked padding on its left, and its
positions count from its own first token. Therefore the tokens of a row do not depend on the other
rows, and rows may join and leave between steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from vestal_handlers.errors import HandlerError, RequestFailure

NOT_BEGUN = (
    "the time limit of this batch passed before this request began; send fewer prompts at once, or "
    "raise handler.max_seconds"
)

FinishReason = Literal["eos", "stop", "length", "time"]


@dataclass(eq=False)
class GeneratedSequence:
    """One sequence being generated.

    Attributes:
        prompt: token ids, at least one.
        max_new_tokens: the number of tokens after which it ends with reason "length", or earlier at
            the end of the model's context.
        sampler: logits [V] to a token id; None: the most probable one.
        is_stopped: called with `tokens` after each token; True ends the row with reason "stop".
        tokens: the generated token ids, including the end-of-sequence token.
        finish_reason: None until the sequence is finished.
        error: the reason why it failed and left the loop.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampler: Callable[[Tensor], int] | None = None
    is_stopped: Callable[[list[int]], bool] | None = None
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: RequestFailure | None = None

    @property
    def done(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class GenerationLoop:
    """Generates one token per `step` for each of its rows.

    Args:
        model: a causal language model of transformers, in eval mode, with absolute or rotary
            positions (`position_ids`).
        context: the maximum number of tokens, prompt and generated together.
        eos: the token ids that end a row.
    """

    def __init__(self, model: Any, context: int, eos: frozenset[int] = frozenset()) -> None:
        self.model, self.context, self.eos = model, context, eos
        self.rows: list[GeneratedSequence] = []
        # Any: the type in transformers does not declare the keys and values of its layers.
        self._cache: Any = DynamicCache()
        self._mask = torch.ones(0, 0, dtype=torch.long, device=model.device)  # [N, T]
        self._logits: Tensor | None = None  # [N, V] of the next token; None: to be computed

    def add(self, rows: Sequence[GeneratedSequence]) -> None:
        """Run the prompts of new rows and add them to the batch.

        Raises:
            ValueError: a prompt is empty, or leaves no room for a token in the context.
        """
        for row in rows:
            if not 0 < len(row.prompt) < self.context:
                raise ValueError(
                    f"a prompt of {len(row.prompt)} tokens; expected 1 to {self.context - 1} "
                    f"(the model's context is {self.context})"
                )
        # Prompts within a factor of two in length run together, which limits the padding.
        by_length = sorted(rows, key=lambda row: len(row.prompt))
        for _, group in groupby(by_length, key=lambda row: max(32, len(row.prompt)).bit_length()):
            self._prefill(list(group))

    def _prefill(self, rows: list[GeneratedSequence]) -> None:
        longest = max(len(row.prompt) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            start = longest - len(row.prompt)
            ids[index, start:] = torch.tensor(row.prompt)
            mask[index, start:] = 1
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        mask = mask.to(self._mask.device)
        cache: Any = DynamicCache()
        logits = self._forward(ids, mask, positions, cache)
        if self.rows:
            logits = torch.cat([self._next_logits(), logits])
            cache, mask = _join_caches(self._cache, self._mask, cache, mask)
        self.rows, self._cache, self._mask = [*self.rows, *rows], cache, mask
        self._logits = logits

    def step(self) -> list[tuple[GeneratedSequence, int]]:
        """Generate one token for every row; rows that end or fail leave.

        Returns:
            The rows that got a token, each with the token.
        """
        if not self.rows:
            return []
        logits = self._next_logits()
        self._logits = None
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        best = logits.argmax(dim=-1).tolist()
        generated = []
        for index, row in enumerate(self.rows):
            if not finite[index]:
                row.error = HandlerError("the model's logits are not finite (NaN or infinity)")
                continue
            token = row.sampler(logits[index]) if row.sampler else best[index]
            row.tokens.append(token)
            row.finish_reason = self._finish_reason(row)
            generated.append((row, token))
        self._keep([index for index, row in enumerate(self.rows) if not row.done])
        return generated

    def remove(self, row: GeneratedSequence) -> None:
        """Remove a row before it is finished."""
        self._keep([index for index, other in enumerate(self.rows) if other is not row])

    def _finish_reason(self, row: GeneratedSequence) -> FinishReason | None:
        if row.tokens[-1] in self.eos:
            return "eos"
        if row.is_stopped and row.is_stopped(row.tokens):
            return "stop"
        full = len(row.prompt) + len(row.tokens) >= self.context
        return "length" if full or len(row.tokens) >= row.max_new_tokens else None

    def _next_logits(self) -> Tensor:
        """Logits [N, V] of the next token, computed from the last tokens if necessary."""
        if self._logits is None:
            ids = torch.tensor([[row.tokens[-1]] for row in self.rows])
            positions = torch.tensor([[len(row.prompt) + len(row.tokens) - 1] for row in self.rows])
            self._mask = pad(self._mask, (0, 1), value=1)
            self._logits = self._forward(ids, self._mask, positions, self._cache)
        return self._logits

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        device = self._mask.device
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _keep(self, indices: list[int]) -> None:
        """Keep only these rows, and only the columns that they use."""
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in indices]
        if not self.rows:
            self._cache, self._mask, self._logits = DynamicCache(), self._mask[:0, :0], None
            return
        chosen = torch.tensor(indices, device=self._mask.device)
        mask = self._mask[chosen]
        unused = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, unused:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[chosen, :, unused:]
            layer.values = layer.values[chosen, :, unused:]
        if self._logits is not None:
            self._logits = self._logits[chosen]


def _join_caches(cache: Any, mask: Tensor, new_cache: Any, new_mask: Tensor) -> tuple[Any, Tensor]:
    """Stack two caches and masks, the shorter one padded on its left."""
    width = max(mask.shape[1], new_mask.shape[1])

    def stacked(old: Tensor, new: Tensor) -> Tensor:
        # keys and values are [N, heads, T, D]
        return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in (old, new)])

    for layer, new_layer in zip(cache.layers, new_cache.layers, strict=True):
        layer.keys = stacked(layer.keys, new_layer.keys)
        layer.values = stacked(layer.values, new_layer.values)
    masks = [pad(part, (width - part.shape[1], 0)) for part in (mask, new_mask)]
    return cache, torch.cat(masks)


def generate(
    model: Any,
    rows: Sequence[GeneratedSequence],
    context: int,
    eos: frozenset[int] = frozenset(),
    max_cells: int = 16_384,
    deadline: float = float("inf"),
) -> None:
    """Generate until every row is finished, in groups that fit the cache.

    Args:
        max_cells: the maximum of rows times tokens in the cache.
        deadline: time.monotonic() after which rows end with reason "time" and the tokens that they
            have; rows that have not begun fail.
    """
    sizes = [min(len(row.prompt) + row.max_new_tokens, context) for row in rows]
    for group in group_by_size(sizes, max_cells):
        members = [rows[index] for index in group]
        if time.monotonic() > deadline:
            for row in members:
                row.error = HandlerError(NOT_BEGUN)
            continue
        loop = GenerationLoop(model, context, eos)
        loop.add(members)
        loop.step()
        while loop.rows and time.monotonic() < deadline:
            loop.step()
        for row in loop.rows:
            row.finish_reason = "time"


def group_by_size(sizes: Sequence[int], max_cells: int) -> Iterator[list[int]]:
    """Group indices so that a group's length times its largest size is at most `max_cells`.

    A size above the limit is a group of its own.
    """
    group: list[int] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if group and (len(group) + 1) * sizes[index] > max_cells:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
