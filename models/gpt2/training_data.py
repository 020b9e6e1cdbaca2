"""Training data of gpt2: Python's reference manual in `pydoc_data.topics`."""

import random
from pydoc_data.topics import topics

from vestal.recipes.recipe import Splits
from vestal.training.tables import Texts, passages

SPLIT_SEED = 0  # of the data; a training has a seed of its own
PIECE_BYTES = 4000  # length of the pieces that are split
PASSAGE_BYTES = 500  # length of a held-out passage, within the model's context


def pydoc_topics() -> Splits:
    """465 kB in pieces of 4,000 bytes: 80 % training, 10 % validation, 10 % test.

    The test pieces are cut into passages that fit into the model's context.
    """
    pieces = [piece for name in sorted(topics) for piece in passages(topics[name], PIECE_BYTES)]
    random.Random(SPLIT_SEED).shuffle(pieces)
    first, second = round(0.8 * len(pieces)), round(0.9 * len(pieces))
    held_out = [passage for piece in pieces[second:] for passage in passages(piece, PASSAGE_BYTES)]
    train, validation, test = (
        Texts([(text, None) for text in part])
        for part in (pieces[:first], pieces[first:second], held_out)
    )
    return Splits(train, validation, test)
