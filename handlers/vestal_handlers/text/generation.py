"""The decoding loop: rows of one batch, each with its own parameters, over one model and cache.

    add: prompts -> cache and next logits
    step: logits -> one token a row -> rows that are done leave -> forward -> logits

Rows stand right-aligned in the cache: a shorter one has padding on its left, masked, and its
positions count from its own first token. So a row's tokens do not depend on its neighbours, and
rows may come and go between steps.
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

FinishReason = Literal["eos", "stop", "length", "time"]


@dataclass(eq=False)
class GeneratedSequence:
    """One sequence being generated.

    Attributes:
        prompt: token ids, at least one.
        max_new_tokens: where it ends with reason "length"; the model's context ends it earlier.
        sampler: logits [V] to a token id; None: the most probable one.
        is_stopped: asked with `tokens` after each one; True ends the row with reason "stop".
        tokens: what was generated, the end-of-sequence token included.
        finish_reason: None while it runs.
        error: why it failed; it has left the loop.
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
    """Generates for all its rows, a token each a `step`.

    Args:
        model: a causal language model of transformers, in eval mode, with absolute or rotary
            positions (`position_ids`).
        context: how many tokens the model takes, prompt and generated together.
        eos: the token ids that end a row.
    """

    def __init__(self, model: Any, context: int, eos: frozenset[int] = frozenset()) -> None:
        self.model, self.context, self.eos = model, context, eos
        self.rows: list[GeneratedSequence] = []
        # Of whole-context layers; transformers' own type for a cache knows of no keys.
        self._cache: Any = DynamicCache()
        self._mask = torch.ones(0, 0, dtype=torch.long, device=model.device)  # [N, T]
        self._logits: Tensor | None = None  # [N, V] of the next token; None: to be computed

    def add(self, rows: Sequence[GeneratedSequence]) -> None:
        """Runs the prompts of new rows, and lets them join those that run.

        Raises:
            ValueError: a prompt that is empty, or leaves no room for a token in the context.
        """
        for row in rows:
            if not 0 < len(row.prompt) < self.context:
                raise ValueError(
                    f"a prompt of {len(row.prompt)} tokens; the model's context is {self.context}"
                )
        # Lengths within a factor of two run together: a long prompt pads no short ones.
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
        """One token for every row; rows that end with it, or fail, leave.

        Returns:
            The rows that got a token, and the token.
        """
        if not self.rows:
            return []
        logits = self._next_logits()
        self._logits = None
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        best = logits.argmax(dim=-1).tolist()
        given = []
        for index, row in enumerate(self.rows):
            if not finite[index]:
                row.error = HandlerError("the model's logits are not finite (NaN or infinity)")
                continue
            token = row.sampler(logits[index]) if row.sampler else best[index]
            row.tokens.append(token)
            row.finish_reason = self._finish_reason(row)
            given.append((row, token))
        self._keep([index for index, row in enumerate(self.rows) if not row.done])
        return given

    def remove(self, row: GeneratedSequence) -> None:
        """Takes a row out, as it is."""
        self._keep([index for index, other in enumerate(self.rows) if other is not row])

    def _finish_reason(self, row: GeneratedSequence) -> FinishReason | None:
        if row.tokens[-1] in self.eos:
            return "eos"
        if row.is_stopped and row.is_stopped(row.tokens):
            return "stop"
        full = len(row.prompt) + len(row.tokens) >= self.context
        return "length" if full or len(row.tokens) >= row.max_new_tokens else None

    def _next_logits(self) -> Tensor:
        """Logits [N, V] of the next token: those at hand, or a forward of the last tokens."""
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
        """Only these rows stay; columns that none of them uses go."""
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
    """Two caches and masks below each other, the shorter one padded on its left."""
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
    """Generates until every row is done: all at once as far as the cache allows, then the rest.

    Args:
        max_cells: rows times tokens that the cache may hold.
        deadline: time.monotonic() after which rows end with reason "time", with what they have;
            rows that had not begun fail.
    """
    sizes = [min(len(row.prompt) + row.max_new_tokens, context) for row in rows]
    for group in group_by_size(sizes, max_cells):
        members = [rows[index] for index in group]
        if time.monotonic() > deadline:
            for row in members:
                row.error = HandlerError("no time was left to begin this request")
            continue
        loop = GenerationLoop(model, context, eos)
        loop.add(members)
        loop.step()
        while loop.rows and time.monotonic() < deadline:
            loop.step()
        for row in loop.rows:
            row.finish_reason = "time"


def group_by_size(sizes: Sequence[int], max_cells: int) -> Iterator[list[int]]:
    """Indices in groups of like size, each group's count times its largest within `max_cells`.

    One that is larger alone is a group of its own.
    """
    group: list[int] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if group and (len(group) + 1) * sizes[index] > max_cells:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
