"""Score a text: the log-probability of each token after the tokens before it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vestal_handlers.errors import HandlerError, RequestFailure
from vestal_handlers.text.generation import NOT_BEGUN, group_by_size

# Logits of a long text are large (1,024 x 50,257 in fp32: 206 MB), so each pass computes a part.
TOKENS_AT_ONCE = 512


def score(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_cells: int = 16_384,
    deadline: float = float("inf"),
) -> list[list[float] | RequestFailure]:
    """Natural log-probabilities, fp32, of every prompt's tokens from the second on.

    Args:
        prompts: token ids, at least one each, within the model's context.
        max_cells: the maximum of rows times tokens in the cache.
        deadline: time.monotonic() after which unfinished prompts fail.

    Returns:
        For each prompt one number fewer than it has tokens, or a RequestFailure if a number is not
        finite or the deadline passed.
    """
    scores: list[list[float] | RequestFailure] = [[] for _ in prompts]
    for group in group_by_size([len(prompt) for prompt in prompts], max_cells):
        group_logprobs = _score_together(model, [prompts[index] for index in group], deadline)
        if group_logprobs is None:
            for index in group:
                scores[index] = HandlerError(NOT_BEGUN)
            continue
        for index, row in zip(group, group_logprobs.tolist(), strict=True):
            logprobs = row[: len(prompts[index]) - 1]
            finite = all(math.isfinite(logprob) for logprob in logprobs)
            scores[index] = logprobs if finite else HandlerError("a log-probability is not finite")
    return scores


def _score_together(model: Any, prompts: Sequence[Sequence[int]], deadline: float) -> Tensor | None:
    """Log-probabilities [N, T - 1] on the CPU; those after the end of a row are meaningless.

    None if the deadline passed first.
    """
    width = max(len(prompt) for prompt in prompts)
    # Padding is on the right, where no token of the row attends to it, so it needs no mask.
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        ids[index, : len(prompt)] = torch.tensor(prompt)
    ids = ids.to(model.device)
    cache, logprobs = DynamicCache(), []
    columns = max(1, TOKENS_AT_ONCE // len(prompts))
    for start in range(0, width - 1, columns):
        if time.monotonic() > deadline:
            return None
        end = min(start + columns, width - 1)
        output = model(
            input_ids=ids[:, start:end],
            attention_mask=torch.ones_like(ids[:, :end]),
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits.float()
        targets = ids[:, start + 1 : end + 1, None]
        logprobs.append(logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(dim=-1))
    return torch.cat(logprobs, dim=1).cpu() if logprobs else torch.empty(len(prompts), 0)
