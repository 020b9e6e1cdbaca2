"""Options of a handler are read and validated."""

from __future__ import annotations

import pytest

from vestal_handlers.options import OptionError, read_options
from vestal_handlers.tasks.image_classifier import ImageClassifierOptions


def test_without_options_the_defaults_hold():
    assert read_options(ImageClassifierOptions, None) == ImageClassifierOptions()


def test_options_are_read():
    options = read_options(ImageClassifierOptions, {"top_k": 5, "threads": 2})
    assert (options.top_k, options.threads) == (5, 2)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"topk": 5}, r"handler\.topk .* is not an option: did you mean top_k\?"),
        ({"zzz": 5}, r"handler\.zzz .* the options are .*max_bytes.*top_k"),
        ({"top_k": "5"}, r"handler\.top_k .* must be int, not '5' \(str\)"),
        ({"top_k": True}, r"must be int, not True \(bool\)"),
        ({"top_k": 5.0}, r"must be int, not 5\.0 \(float\)"),
        ({"top_k": 0}, r"must be at least 1, not 0"),
        ({"threads": 0}, r"must be at least 1, not 0"),
        ({"warm_up": "yes"}, r"must be bool, not 'yes'"),
        ({"engine": 3}, r"must be str or null, not 3"),
        ({"outputs": "logit"}, r"must be 'logits' or 'probabilities', not 'logit'"),
        (["top_k"], r"must be a mapping, not \['top_k'\]"),
    ],
)
def test_an_invalid_option_is_refused_by_name(sent, message):
    with pytest.raises(OptionError, match=message):
        read_options(ImageClassifierOptions, sent)
