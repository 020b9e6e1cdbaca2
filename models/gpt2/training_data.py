"""English: Python's own reference, as `pydoc_data.topics` has it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vestal.training.recipe import Splits

from .model import VOCABULARY

SPLIT_SEED = 0  # of the data, whatever the training's seed
PASSAGE_CHARS = 400  # of what is held out: within the model's context


@dataclass(frozen=True)
class Texts:
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, None]:
        return self.texts[index], None


def pydoc_topics(data: Path | None = None) -> Splits:
    """79 topics, 465 kB: 80 % of them train, 10 % validate, 10 % are held out, as passages.

    `data` is not needed: the text comes with Python.
    """
    names = sorted(topics)
    random.Random(SPLIT_SEED).shuffle(names)
    texts = [topics[name] for name in names]
    first, second = round(0.8 * len(texts)), round(0.9 * len(texts))
    held_out = [passage for text in texts[second:] for passage in passages(text)]
    return Splits(Texts(texts[:first]), Texts(texts[first:second]), Texts(held_out))


def passages(text: str) -> Iterator[str]:
    """Whole lines, about 400 characters at once."""
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len(passage) + len(line) > PASSAGE_CHARS:
            yield passage
            passage = ""
        passage += line
    if passage.strip():
        yield passage


def byte_level_bpe(texts: Sequence[str]) -> Tokenizer:
    """GPT-2's kind of tokenizer, trained on these texts: every text has tokens, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
