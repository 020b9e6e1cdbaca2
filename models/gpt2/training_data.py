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
PIECE_CHARS = 4000  # what is held out is so long
PASSAGE_CHARS = 500  # of a held-out passage: within the model's context


@dataclass(frozen=True)
class Texts:
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, None]:
        return self.texts[index], None


def pydoc_topics(data: Path | None = None) -> Splits:
    """465 kB in pieces of 4,000 characters: 80 % of these train, 10 % validate, 10 % are held out.

    The held-out pieces are cut once more, into passages that the model takes at once.

    `data` is not needed: the text comes with Python.
    """
    pieces = [piece for name in sorted(topics) for piece in passages(topics[name], PIECE_CHARS)]
    random.Random(SPLIT_SEED).shuffle(pieces)
    first, second = round(0.8 * len(pieces)), round(0.9 * len(pieces))
    held_out = [passage for text in pieces[second:] for passage in passages(text)]
    return Splits(Texts(pieces[:first]), Texts(pieces[first:second]), Texts(held_out))


def passages(text: str, limit: int = PASSAGE_CHARS) -> Iterator[str]:
    """Whole lines, about so many characters at once."""
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len(passage) + len(line) > limit:
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
