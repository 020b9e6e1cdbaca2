"""Temperature, top-k and top-p give the probabilities of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from vestal_handlers.text.sampling import Sampler, Sampling, distribution


def reference(logits, temperature, top_k, top_p):
    """A plain implementation of temperature, top-k and top-p in fp64."""
    kept = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        kept = [i for i in kept if logits[i] >= logits[kept[min(top_k, len(kept)) - 1]]]
    best = max(logits)
    weights = {i: math.exp((logits[i] - best) / temperature) for i in kept}
    total, reached, nucleus = sum(weights.values()), 0.0, []
    for i in kept:
        assume(top_p == 1 or abs(reached / total - top_p) > 1e-5)  # a tie with the bound
        if nucleus and reached / total >= top_p:
            break
        nucleus.append(i)
        reached += weights[i]
    return [weights[i] / reached if i in nucleus else 0.0 for i in range(len(logits))]


@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=30, unique=True),
    st.floats(0.05, 2),
    st.integers(0, 40),
    st.floats(0.01, 1),
)
def test_the_distribution_equals_that_of_the_reference(tenths, temperature, top_k, top_p):
    logits = [tenth / 10 for tenth in tenths]
    expected = reference(logits, temperature, top_k, top_p)
    ours = distribution(torch.tensor(logits), Sampling(temperature, top_k, top_p, 0))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_tokens_are_sampled_as_often_as_their_probability():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, -9.0])
    sampling = Sampling(temperature=1.3, top_k=3, top_p=1, seed=5)
    sampler = Sampler(sampling)
    counts = np.bincount([sampler(logits) for _ in range(4000)], minlength=5)
    expected = distribution(logits, sampling).numpy()
    assert (counts[expected == 0] == 0).all()
    # at most five standard deviations of a binomial proportion
    np.testing.assert_allclose(counts / 4000, expected, atol=5 * 0.5 / math.sqrt(4000))


@pytest.mark.parametrize("temperature", [1e-5, 2.0])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_every_temperature_gives_finite_probabilities(temperature, scale):
    logits = torch.tensor([-1.0, 0.5, 1.0]) * scale
    found = distribution(logits, Sampling(temperature, 0, 0.9, 0))
    assert torch.isfinite(found).all()
    assert found.sum() == pytest.approx(1)
