"""Language models: tokenizer, blocks of tokens for training, perplexity of passages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vestal.errors import VestalError
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import Examples, Recipe, Splits

# Returns the log-probability of each token of a passage, except the first.
Scorer = Callable[[Sequence[str]], Sequence[Sequence[float]]]


class Blocks:
    """Blocks of token ids: an example is the ids [context], and the ids one position later.

    With `jitter` each block begins at a random offset of up to one block, so that epochs differ.
    """

    def __init__(self, ids: Sequence[int], context: int, jitter: bool = False) -> None:
        self.ids, self.context, self.jitter = torch.tensor(ids), context, jitter

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.context
        if self.jitter:
            last = len(self.ids) - self.context - 1
            start = min(start + int(torch.randint(self.context, ())), last)
        return (
            self.ids[start : start + self.context],
            self.ids[start + 1 : start + 1 + self.context],
        )


def byte_level_bpe(texts: Sequence[str], *, vocabulary: int) -> Any:
    """Train a tokenizer (`tokenizers.Tokenizer`) like GPT-2's on texts.

    It can encode any text; token 0, `<|endoftext|>`, ends a text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def texts_of(examples: Examples) -> list[str]:
    return [examples[index][0] for index in range(len(examples))]


def tokenize(recipe: Recipe, splits: Splits) -> tuple[Any, Splits]:
    """Train the recipe's tokenizer on the training texts, and turn all splits into blocks.

    Raises:
        VestalError: a split has too few tokens for a block.
    """
    assert recipe.tokenizer is not None
    assert isinstance(recipe.objective, NextToken)
    context = recipe.objective.context
    tokenizer = recipe.tokenizer(texts_of(splits.train))
    # Texts end with the token that ends a generation, if the vocabulary has one.
    end = tokenizer.token_to_id("<|endoftext|>")

    def blocks(part: str, examples: Examples, jitter: bool = False) -> Blocks:
        ids: list[int] = []
        for text in texts_of(examples):
            ids += tokenizer.encode(text).ids
            ids += [] if end is None else [end]
        if len(ids) <= context:
            raise VestalError(
                f"the {part} texts have {len(ids)} tokens, but an example requires {context + 1}: "
                "use a longer text, or a smaller context in model.py"
            )
        return Blocks(ids, context, jitter)

    return tokenizer, Splits(
        blocks("training", splits.train, jitter=True),
        blocks("validation", splits.validation),
        blocks("test", splits.test),
        splits.labels,
    )


def module_scorer(module: Any, tokenizer: Any) -> Scorer:
    """A scorer that uses a causal language model of transformers in this process."""

    @torch.inference_mode()
    def score(passages: Sequence[str]) -> list[list[float]]:
        scores = []
        for passage in passages:
            ids = torch.tensor([tokenizer.encode(passage).ids])
            logprobs = module(ids).logits[0, :-1].float().log_softmax(-1)
            scores.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return scores

    return score


def perplexity(logprobs: Sequence[Sequence[float]]) -> float:
    """The exponential of the mean negative log-probability of all scored tokens."""
    flat = [value for passage in logprobs for value in passage]
    return math.exp(-math.fsum(flat) / len(flat))


def measure_passages(module: Any, tokenizer: Any, passages: Examples) -> dict[str, float]:
    """Measure the perplexity of passages, each scored alone as in a handler."""
    logprobs = module_scorer(module, tokenizer)(texts_of(passages))
    return {"perplexity": perplexity(logprobs)}
