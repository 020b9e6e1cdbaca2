"""Language: a tokenizer, texts as token blocks to train on, and perplexity over passages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vestal.errors import VestalError
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import Examples, Recipe, Splits

# The log-probabilities of a passage's tokens, each given those before it; the first has none.
Scorer = Callable[[Sequence[str]], Sequence[Sequence[float]]]


class Blocks:
    """Token ids in rows of `context`; an example is a row [context] and the row one further on.

    With `jitter` each row begins up to a row further on, by chance: every epoch sees other cuts.
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
    """GPT-2's kind of tokenizer (`tokenizers.Tokenizer`), trained on these texts.

    Every text has tokens and none is unknown; the token 0, `<|endoftext|>`, ends one.
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
    """Trains the recipe's tokenizer on the training texts, and turns every split into blocks.

    Raises:
        VestalError: a split has too few tokens for one block.
    """
    assert recipe.tokenizer is not None
    assert isinstance(recipe.objective, NextToken)
    context = recipe.objective.context
    tokenizer = recipe.tokenizer(texts_of(splits.train))
    # A text ends with the token that ends a generation, where the vocabulary has one.
    end = tokenizer.token_to_id("<|endoftext|>")

    def blocks(part: str, examples: Examples, jitter: bool = False) -> Blocks:
        ids: list[int] = []
        for text in texts_of(examples):
            ids += tokenizer.encode(text).ids
            ids += [] if end is None else [end]
        if len(ids) <= context:
            raise VestalError(
                f"the {part} texts have {len(ids)} tokens, and one example takes {context + 1}: "
                "take a longer text, or a smaller context into model.py"
            )
        return Blocks(ids, context, jitter)

    return tokenizer, Splits(
        blocks("training", splits.train, jitter=True),
        blocks("validation", splits.validation),
        blocks("test", splits.test),
        splits.labels,
    )


def module_scorer(module: Any, tokenizer: Any) -> Scorer:
    """Scores with a causal language model of transformers in this process, one by one."""

    @torch.inference_mode()
    def score(passages: Sequence[str]) -> list[list[float]]:
        found = []
        for passage in passages:
            ids = torch.tensor([tokenizer.encode(passage).ids])
            logprobs = module(ids).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    return score


def perplexity(logprobs: Sequence[Sequence[float]]) -> float:
    """exp of the mean negative log-probability over all scored tokens."""
    flat = [value for passage in logprobs for value in passage]
    return math.exp(-math.fsum(flat) / len(flat))


def figures(module: Any, tokenizer: Any, passages: Examples) -> dict[str, float]:
    """The perplexity over passages, each scored by itself, as a handler scores them."""
    scored = module_scorer(module, tokenizer)(texts_of(passages))
    return {"perplexity": perplexity(scored)}
