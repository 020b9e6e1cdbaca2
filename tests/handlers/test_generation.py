"""The decoding loop, on a tiny GPT-2: the tokens of a row do not depend on its batch."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gpt2 import CONTEXT, EOS, PoisonedModel, prompts_of, tiny_model

from vestal_handlers.errors import HandlerError
from vestal_handlers.text import generation
from vestal_handlers.text.generation import (
    GeneratedSequence,
    GenerationLoop,
    generate,
    group_by_size,
)
from vestal_handlers.text.sampling import Sampler, Sampling


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def run(model, *rows, eos=frozenset({EOS}), **options):
    generate(model, rows, CONTEXT, eos, **options)
    return [row.tokens for row in rows]


def margins(model, row):
    """The difference between the two best logits at each token of a row."""
    ids = torch.tensor([[*row.prompt, *row.tokens]])
    logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
    best = logits.topk(2).values
    return (best[:, 0] - best[:, 1]).tolist()


def assert_same(model, row, alone):
    """Compare token by token, up to a token whose two best logits are almost equal."""
    for (ours, theirs), margin in zip(
        itertools.zip_longest(row.tokens, alone.tokens), margins(model, alone), strict=False
    ):
        if ours != theirs:
            assert row.sampler is None, "a sampled row differs from itself alone"
            assert margin <= 1e-4
            return
    assert row.tokens == alone.tokens
    assert row.finish_reason == alone.finish_reason


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([0.1, 0.9, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)


PARAMETERS = st.tuples(
    st.integers(1, CONTEXT - 1),  # tokens of the prompt
    st.integers(0, 5),  # seed of the prompt
    st.integers(1, 10),  # max_new_tokens
    st.none() | SAMPLINGS,
    st.none() | st.integers(1, 10),  # a stop after so many tokens
)


def row_of(length, seed, max_new_tokens, sampling, stop_at):
    return GeneratedSequence(
        prompts_of([length], seed)[0],
        max_new_tokens,
        Sampler(sampling) if sampling else None,
        (lambda tokens: len(tokens) >= stop_at) if stop_at else None,
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(PARAMETERS, min_size=1, max_size=8), st.sampled_from([1, 200, 16_384]))
def test_a_row_generates_the_same_tokens_alone_and_in_a_batch(model, parameters, max_cells):
    rows = [row_of(*one) for one in parameters]
    eos = frozenset({EOS, *range(100, 110)})
    run(model, *rows, eos=eos, max_cells=max_cells)
    for one, row in zip(parameters, rows, strict=True):
        alone = row_of(*one)
        run(model, alone, eos=eos)
        assert_same(model, row, alone)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(PARAMETERS, st.integers(0, 6)), min_size=1, max_size=6))
def test_rows_may_join_and_leave_between_steps(model, arrivals):
    loop = GenerationLoop(model, CONTEXT)
    rows = [(row_of(*parameters), step) for parameters, step in arrivals]
    for step in range(7):
        loop.add([row for row, joins in rows if joins == step])
        loop.step()
    while loop.rows:
        loop.step()
    for (parameters, _), (row, _) in zip(arrivals, rows, strict=True):
        alone = row_of(*parameters)
        run(model, alone, eos=frozenset())
        assert_same(model, row, alone)


def test_sixty_four_rows_generate_the_same_tokens_as_alone(model):
    lengths = [1 + index % 40 for index in range(64)]
    rows = [GeneratedSequence(prompt, 1 + i % 7) for i, prompt in enumerate(prompts_of(lengths))]
    run(model, *rows)
    for row in rows:
        alone = GeneratedSequence(row.prompt, row.max_new_tokens)
        run(model, alone)
        assert_same(model, row, alone)


@pytest.mark.parametrize("length", [1, 2, 17, 40])
def test_greedy_tokens_equal_those_of_transformers(model, length):
    prompts = prompts_of([length] * 4, seed=length)
    expected = model.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(4, length, dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=EOS,
    )[:, length:].tolist()
    for ours, theirs in zip(
        run(model, *[GeneratedSequence(p, 20) for p in prompts]), expected, strict=True
    ):
        assert ours == theirs[: len(ours)]
        assert all(token == EOS for token in theirs[len(ours) :])  # its padding


def test_a_step_returns_the_rows_and_their_tokens(model):
    first, second = (
        GeneratedSequence(prompt, count)
        for prompt, count in zip(prompts_of([3, 5]), (1, 2), strict=True)
    )
    loop = GenerationLoop(model, CONTEXT)
    loop.add([first, second])
    assert loop.step() == [(first, first.tokens[0]), (second, second.tokens[0])]
    assert loop.rows == [second]
    assert loop.step() == [(second, second.tokens[1])]
    assert (loop.rows, loop.step()) == ([], [])


def test_rows_can_be_added_to_an_empty_loop(model):
    loop = GenerationLoop(model, CONTEXT)
    tokens = []
    for _ in range(2):
        row = GeneratedSequence(prompts_of([9])[0], 3)
        loop.add([row])
        while loop.rows:
            loop.step()
        tokens.append(row.tokens)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_removing_a_row_does_not_change_the_others(model, steps):
    short, long = prompts_of([4, 30])
    loop = GenerationLoop(model, CONTEXT)
    stays, goes = GeneratedSequence(short, 10), GeneratedSequence(long, 10)
    loop.add([stays, goes])
    for _ in range(steps):
        loop.step()
    loop.remove(goes)
    while loop.rows:
        loop.step()
    assert len(goes.tokens) == steps
    assert [stays.tokens] == run(model, GeneratedSequence(short, 10), eos=frozenset())


def test_the_cache_narrows_when_its_longest_row_leaves(model):
    short, long = prompts_of([4, 30])
    loop = GenerationLoop(model, CONTEXT)
    loop.add([GeneratedSequence(short, 10), GeneratedSequence(long, 1)])
    loop.step()
    assert loop._mask.shape == (1, 4)
    assert {tuple(layer.keys.shape) for layer in loop._cache.layers} == {(1, 2, 4, 16)}


def test_an_end_of_sequence_token_ends_its_row(model):
    (prompt,) = prompts_of([6])
    (free,) = run(model, GeneratedSequence(prompt, 10), eos=frozenset())
    row = GeneratedSequence(prompt, 10)
    run(model, row, eos=frozenset({free[3]}))
    assert row.tokens == free[: free.index(free[3]) + 1]
    assert row.finish_reason == "eos"


def test_a_row_ends_at_the_context_of_the_model(model):
    row, last = (GeneratedSequence(prompt, 30) for prompt in prompts_of([CONTEXT - 4, CONTEXT - 1]))
    run(model, row, last, eos=frozenset())
    assert (len(row.tokens), row.finish_reason) == (4, "length")
    assert (len(last.tokens), last.finish_reason) == (1, "length")


@pytest.mark.parametrize("length", [0, CONTEXT])
def test_a_prompt_without_room_for_a_token_is_refused(model, length):
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens.* context is {CONTEXT}"):
        GenerationLoop(model, CONTEXT).add([GeneratedSequence([1] * length, 5)])


def test_a_row_with_non_finite_logits_fails_alone(model):
    first, second, third = prompts_of([4, 9, 6])
    expected = run(model, GeneratedSequence(first, 8), GeneratedSequence(third, 8), eos=frozenset())
    poison = 299
    assert not any(poison in tokens for tokens in [*expected, first, third])
    rows = [
        GeneratedSequence(first, 8),
        GeneratedSequence([*second, poison], 8),
        GeneratedSequence(third, 8),
    ]
    run(PoisonedModel(model, poison), *rows, eos=frozenset())
    assert [rows[0].tokens, rows[2].tokens] == expected
    assert isinstance(rows[1].error, HandlerError)
    assert "not finite" in rows[1].error.message


def test_a_row_keeps_its_tokens_at_the_deadline(model, monkeypatch):
    clock = itertools.count()
    # Not time.monotonic itself, which other threads call, too.
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    row = GeneratedSequence(prompts_of([5])[0], 30)
    run(model, row, eos=frozenset(), deadline=4)
    assert (len(row.tokens), row.finish_reason) == (4, "time")


def test_rows_that_have_not_begun_at_the_deadline_fail(model):
    row = GeneratedSequence(prompts_of([5])[0], 30)
    run(model, row, deadline=-1)
    assert isinstance(row.error, HandlerError)
    assert "the time limit of this batch passed" in row.error.message


@given(st.lists(st.integers(1, 100), max_size=40), st.integers(1, 300))
def test_groups_contain_every_index_once_and_respect_the_limit(sizes, max_cells):
    groups = list(group_by_size(sizes, max_cells))
    assert sorted(itertools.chain(*groups)) == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(sizes[i] for i in group) <= max_cells


def test_a_seed_gives_the_same_tokens_and_another_seed_others(model):
    (prompt,) = prompts_of([6])
    first, again, other = (
        GeneratedSequence(prompt, 20, Sampler(Sampling(1.0, 0, 1.0, seed))) for seed in (7, 7, 8)
    )
    run(model, first, again, other, eos=frozenset())
    assert first.tokens == again.tokens != other.tokens
