"""The report on a shadow version: pairs, differences, examples, damaged files."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shadow_digests import START, classified, digest, write_digests

from vestal.archive.comparing import Comparison as DiffComparison
from vestal.errors import UsageError, VestalError
from vestal.inprocess.messages import Response
from vestal.shadow import comparison
from vestal.shadow.digests import DigestFiles, parse_digest
from vestal.shadow.joining import MISSING
from vestal.shadow.report import REMOVED, make_report


@pytest.fixture
def root(tmp_path):
    return tmp_path / "shadow"


def write_pairs(root, *pairs, live="1.0", shadow="2.0"):
    """Write pairs of answers; their request IDs are 0, 1, ..."""
    for number, (left, right) in enumerate(pairs):
        write_digests(root, live, digest(f"{live}-{number}", left, compared_with=shadow))
        copy = digest(f"{live}-{number}", right, shadow=True, compared_with=shadow)
        write_digests(root, shadow, copy)


def report(root, version=None, tolerance=1e-4):
    return make_report(root, "m", version, tolerance)


def only(root, **options):
    (found,) = report(root, **options).comparisons
    return found


def test_equal_and_different_labels_are_counted_with_examples(root):
    write_pairs(
        root,
        (classified("cat"), classified("cat")),
        (classified("cat", 0.9), classified("cat", 0.6)),
        (classified("cat", 0.6, "dog"), classified("dog", 0.6, "cat")),
        (classified("cat", 0.6, "dog"), classified("dog", 0.7, "cat")),
        (classified("no", other="maybe"), classified("yes", other="maybe")),
    )
    found = only(root)
    assert (found.compared, found.equal, found.labels, found.statuses) == (5, 1, 3, 0)
    assert found.changes == {("cat", "dog"): 2, ("no", "yes"): 1}
    assert found.probability == pytest.approx(0.3)
    assert [each.id for each in found.examples] == ["1.0-3", "1.0-2", "1.0-4", "1.0-1"]
    assert "label" in found.examples[0].difference


def test_numbers_within_the_tolerance_are_equal(root):
    write_pairs(root, ({"prediction": 100.0}, {"prediction": 100.001}))
    found = only(root)
    assert (found.equal, found.value) == (1, pytest.approx(0.001))
    assert only(root, tolerance=1e-6).equal == 0


def test_statuses_and_errors_of_both_sides(root):
    error = {"code": 500, "message": "model m 1.0 failed", "request_id": "x"}
    other = {"code": 500, "message": "model m 2.0 failed", "request_id": "y"}
    rows = [(200, 500), (500, 500), (422, 422), (200, 200)]
    for number, (left, right) in enumerate(rows):
        write_digests(root, "1.0", digest(str(number), error, status=left))
        write_digests(root, "2.0", digest(str(number), other, status=right, shadow=True))
    found = only(root)
    assert (found.compared, found.statuses, found.equal) == (4, 1, 2)
    assert (found.live.failed, found.live.rejected) == (1, 1)
    assert (found.shadow.failed, found.shadow.rejected) == (2, 1)
    assert found.examples[0].difference == "status is 500, was 200"


def test_responses_that_are_not_json_are_compared_by_their_hash(root):
    write_pairs(root, (b"png", b"png"), (b"png", b"other"), (["x" * 9000], ["x" * 9000]), (1, b"1"))
    found = only(root)
    assert (found.equal, found.texts) == (2, 2)
    assert found.examples[0].difference == "the bytes differ"


def test_the_version_in_a_v2_response_is_no_difference(root):
    def response(version, label, probability):
        tensors = {"label": [label], "probability": [probability]}
        outputs = [
            {"name": name, "shape": [1], "datatype": "FP64", "data": data}
            for name, data in tensors.items()
        ]
        return {"model_name": "m", "model_version": version, "outputs": outputs}

    write_pairs(
        root,
        (response("1.0", "a", 0.5), response("2.0", "a", 0.5)),
        (response("1.0", "a", 0.5), response("2.0", "b", 0.75)),
    )
    found = only(root)
    assert (found.equal, found.changes) == (1, {("a", "b"): 1})
    assert found.probability == 0.25


def test_scores_that_are_not_numbers_are_as_far_as_can_be(root):
    line = digest("0", {"prediction": 1.0}, shadow=True)
    write_digests(root, "1.0", digest("0", {"prediction": 1.0}))
    write_digests(root, "2.0", line.replace(b": 1.0}", b": NaN}"))
    (facts,) = report(root).to_json()["comparisons"]
    assert (facts["equal"], facts["largest_value_difference"]) == (0, "infinity")
    json.dumps(report(root).to_json(), allow_nan=False)


def test_latencies_are_percentiles_of_the_time_in_the_handler(root):
    for number in range(101):
        slow = number / 1000
        write_digests(root, "1.0", digest(str(number), 1, seconds=slow))
        write_digests(root, "2.0", digest(str(number), 1, seconds=2 * slow, shadow=True))
    (facts,) = report(root).to_json()["comparisons"]
    assert facts["sides"]["live"]["p50_seconds"] == pytest.approx(0.05)
    assert facts["sides"]["shadow"]["p99_seconds"] == pytest.approx(0.198)


def test_each_live_version_has_its_comparison(root):
    write_pairs(root, (1, 1), (1, 2))
    write_pairs(root, (3, 3), live="1.1")
    found = report(root).comparisons
    assert [(each.version, each.compared, each.equal) for each in found] == [
        ("1.0", 2, 1),
        ("1.1", 1, 1),
    ]


def test_an_earlier_shadow_version_is_not_counted(root):
    write_pairs(root, (1, 1), (2, 2), shadow="2.0")
    write_pairs(root, (1, 5), live="1.1", shadow="3.0")
    os.utime(next((root / "m" / "2.0").iterdir()), (1, 1))
    newest = report(root)
    assert (newest.version, newest.live) == ("3.0", {})
    assert [each.compared for each in report(root, "2.0").comparisons] == [2]
    assert report(root, "2.0").live == {}


def test_a_response_that_looks_like_a_digest_is_none(root):
    write_pairs(root, (1, 1))
    trap = {"shadow": True}
    write_digests(root, "5.0", digest('"shadow": true', trap), worker="trap")
    assert report(root).version == "2.0"


def test_damaged_lines_are_counted_and_skipped(root):
    write_pairs(root, (1, 1), (2, 2))
    lines = [b"\0" * 100 + b"\n", b"[]\n", b"[" * 100_000 + b"\n", b'{"id": 5}\n']
    lines += [b'{"id": "x", "shadow": true, "at": 1e999}\n']
    write_digests(root, "2.0", *lines, digest("torn", 1, shadow=True)[:-20])
    found = report(root)
    assert (found.damaged, found.comparisons[0].compared) == (6, 2)


def test_a_file_that_is_removed_meanwhile_is_no_error(root):
    write_pairs(root, (1, 1), (2, 2))

    def remove(done, total):
        for file in (root / "m" / "2.0").iterdir():
            file.unlink()

    found = make_report(root, "m", None, 0, progress=remove)
    assert (found.comparisons, found.shadow) == ([], {REMOVED: 2})


def test_missing_responses_are_in_the_json(root):
    write_digests(root, "1.0", digest("a", 1), digest("b", 1, at=START + 1))
    write_digests(root, "2.0", digest("a", 1, shadow=True))
    facts = report(root).to_json()
    assert facts["not_compared"] == {"live": {MISSING: 1}, "shadow": {}}
    assert (facts["from"], facts["to"]) == (START, START)


def test_examples_and_changes_are_bounded(root, monkeypatch):
    monkeypatch.setattr(comparison, "MOST_CHANGES", 10)
    write_pairs(root, *((classified(f"a{n}"), classified(f"b{n}")) for n in range(30)))
    found = only(root)
    assert (len(found.changes), found.other_changes, len(found.examples)) == (10, 20, 20)
    assert found.labels == 30


def test_without_digests_the_error_says_how_to_get_some(root):
    with pytest.raises(VestalError, match=r"Set `shadow:` for it in serving\.yaml"):
        report(root)
    write_pairs(root, (1, 1))
    with pytest.raises(UsageError, match=r"responses of version 1\.0, 2\.0"):
        report(root, "9")


def test_names_with_odd_characters_are_found(root):
    name = "../a b"
    write_digests(root, "1", digest("x", 1), model=name)
    assert DigestFiles(root, name).versions == ["1"]
    assert not list(root.parent.glob("a b*"))


def test_a_line_without_its_end_is_damaged():
    line = digest("a", 1)
    assert parse_digest(line) is not None
    assert parse_digest(line[:-1]) is None


labels = st.sampled_from(["cat", "dog", "fox"])
predictions = st.one_of(
    st.builds(classified, labels, st.sampled_from([0.5, 0.75, 0.750001, 0.9]), st.just("emu")),
    st.builds(lambda number: {"prediction": number}, st.floats(-1e6, 1e6)),
    st.builds(lambda text: {"text": text, "completion_tokens": len(text)}, st.text(max_size=3)),
    st.lists(st.integers(-3, 3), max_size=3),
    st.just(b"png"),
)
statuses = st.sampled_from([200, 200, 200, 500])
sides = st.tuples(predictions, statuses)


@given(st.lists(st.tuples(sides, sides), max_size=20))
def test_the_counts_are_those_of_vestal_diff(pairs):
    ours, theirs = comparison.Comparison("1.0"), DiffComparison()
    for number, row in enumerate(pairs):
        lines = [digest(str(number), answer, status=status) for answer, status in row]
        before, after = (parse_digest(line) for line in lines)
        assert before is not None
        assert after is not None
        ours.add(before, after, 1e-4)
        bodies = [a if isinstance(a, bytes) else json.dumps(a).encode() for a, _ in row]
        if row[0][1] == row[1][1] == 500:  # of errors, `vestal diff` compares the messages, too
            bodies[1] = bodies[0]
        responses = [Response(row[side][1], {}, bodies[side]) for side in (0, 1)]
        theirs.add(str(number), *responses, 1e-4)
    assert ours.compared - ours.equal == len(theirs.different)
    assert (ours.statuses, ours.labels) == (theirs.statuses, theirs.labels)
    assert (ours.probability or 0) == (theirs.probability or 0)
    assert len(ours.examples) == min(comparison.EXAMPLES, len(theirs.different))
