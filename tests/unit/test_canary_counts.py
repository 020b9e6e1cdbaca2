"""Envoy's statistics of a version: requests, failures, and quantiles of the response times."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from canary_traffic import times
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import VestalError
from vestal.fleet.canary.counts import (
    Counts,
    Times,
    gateway_statistics,
    read_statistics,
    statistics_path,
)

VERSIONS = [("echo", "2.0"), ("echo", "2.1")]
# As Envoy 1.40 sends it.
BODY = {
    "stats": [
        {"name": "cluster.echo/2.0|.upstream_rq_5xx", "value": 2},
        {"name": "cluster.echo/2.0|.upstream_rq_completed", "value": 25},
        {
            "histograms": {
                "supported_percentiles": [0, 50, 100],
                "details": [
                    {
                        "name": "cluster.echo/2.0|.upstream_rq_time",
                        "totals": [
                            {"lower_bound": 0, "width": 0, "count": 2},
                            {"lower_bound": 1, "width": 0.1, "count": 18},
                            {"lower_bound": 47, "width": 1, "count": 3},
                            {"lower_bound": 160, "width": 10, "count": 2},
                        ],
                        "intervals": [],
                    }
                ],
            }
        },
    ]
}


def test_counts_are_read_from_the_statistics_of_envoy():
    found = read_statistics(json.dumps(BODY), VERSIONS)
    counts = found["echo", "2.0"]
    assert (counts.requests, counts.failures, counts.times.count) == (25, 2, 25)
    assert counts.times.quantile(0.5) == 2  # from 1 to 2 ms
    assert counts.times.quantile(0.99) == 170
    assert counts.times.above(47) == 5
    assert found["echo", "2.1"] == Counts()


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"stats": [{}]}', '{"stats": 1}', "no"])
def test_other_bodies_are_one_error(body):
    with pytest.raises(VestalError, match="the gateway's statistics cannot be read: "):
        gateway_statistics(lambda _: body)(VERSIONS)


def test_only_the_statistics_of_these_versions_are_requested():
    query = parse_qs(urlsplit(statistics_path(VERSIONS)).query)
    assert (query["format"], query["histogram_buckets"]) == (["json"], ["detailed"])
    (pattern,) = query["filter"]
    names = ("echo/2.0|.upstream_rq_time", "echo/2.1|.upstream_rq_5xx")
    others = (
        "echo/2.0|.external.upstream_rq_time",
        "echo/2.0/shadow|.upstream_rq_time",
        "echo/2x0|.upstream_rq_5xx",
        "echo/2.0.cx_total",
    )
    assert all(re.search(pattern, f"cluster.{name}") for name in names)
    assert not any(re.search(pattern, f"cluster.{name}") for name in others)


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=300), st.floats(0.01, 1))
def test_a_quantile_is_at_most_one_bin_above_the_exact_one(taken, q):
    exact = sorted(taken)[max(1, int(np.ceil(q * len(taken)))) - 1]
    found = times(np.array(taken)).quantile(q)
    assert exact <= found <= max(exact + 1, exact * 1.1 + 1)


def test_the_upper_limit_of_a_p99_is_below_the_true_one_as_rarely_as_promised():
    rng, below = np.random.default_rng(0), 0
    for _ in range(400):
        limit = times(rng.exponential(100, 1000)).upper_quantile(0.99, 0.01)
        assert limit is not None
        below += limit < 100 * np.log(100)
    assert below / 400 <= 0.025  # 1 % and three standard errors


def test_fewer_than_459_times_have_no_upper_limit_of_their_p99():
    assert times(np.ones(458)).upper_quantile(0.99, 0.01) is None
    assert times(np.ones(459)).upper_quantile(0.99, 0.01) == 2
    assert Times().upper_quantile(0.99, 0.01) is None


counts = st.builds(
    Counts,
    requests=st.integers(0, 1000),
    failures=st.integers(0, 50),
    times=st.builds(
        Times, bins=st.dictionaries(st.sampled_from([1.0, 20.0, 160.0]), st.integers(1, 9))
    ),
)


@given(counts, counts)
def test_the_difference_of_two_readings_is_what_happened_between_them(earlier, new):
    assert (earlier + new).since(earlier) == new


def test_after_a_restart_of_the_gateway_everything_is_new():
    before = Counts(requests=100, failures=1, times=Times(bins={10: 100}))
    after = Counts(requests=3, times=Times(bins={10: 3}))
    assert after.since(before) == after
