"""`vestal shadow report`."""

from __future__ import annotations

import json

import pytest
from shadow_digests import START, classified, digest, write_digests


@pytest.fixture
def root(tmp_path):
    root = tmp_path / ".vestal" / "shadow"
    root.mkdir(parents=True)
    labels = [("cat", "cat"), ("cat", "dog"), ("[red]cat", "dog"), ("cat", "cat")]
    for number, (left, right) in enumerate(labels):
        at = START + number
        write_digests(root, "1.0", digest(f"id-{number}", classified(left), at=at, seconds=0.002))
        copy = digest(f"id-{number}", classified(right), at=at, shadow=True, seconds=0.004)
        write_digests(root, "2.0", copy)
    write_digests(root, "1.0", digest("lost", 1, at=START + 9), b"torn")
    return root


def test_the_report_is_a_text(cli, root):
    code, out, err = cli("shadow", "report", "m")
    assert code == 0, err
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith("m: live 1.0, shadow 2.0, 2023-11-1")
    assert lines[1] == "2 of 4 responses equal (50.00%), numbers within 0.0001"
    assert lines[2].startswith("2 with another label, largest probability difference ")
    cells = [line.split() for line in lines]
    assert ["p50", "in", "the", "handler", "2", "ms", "4", "ms"] in cells
    assert ["failed", "(5xx)", "0", "0"] in cells
    assert ["cat", "dog", "1"] in cells
    assert ["[red]cat", "dog", "1"] in cells
    assert any(line.startswith("id-1") and "answer" in line for line in lines)
    assert lines[-2] == ("Not compared: 1 of the live version (1 no response of the other version)")
    assert lines[-1] == "1 damaged line skipped"


def test_the_report_is_json(cli, root):
    code, out, _ = cli("shadow", "report", "m", "--json", "--version", "2.0")
    found = json.loads(out)
    (comparison,) = found["comparisons"]
    assert (code, found["shadow"], comparison["live"]) == (0, "2.0", "1.0")
    assert (comparison["compared"], comparison["equal"], comparison["labels"]) == (4, 2, 2)
    assert {"before": "cat", "after": "dog", "count": 1} in comparison["label_changes"]
    assert comparison["sides"]["shadow"]["p99_seconds"] == pytest.approx(0.004)
    assert found["damaged_lines"] == 1


def test_without_a_shadow_the_error_says_what_to_do(cli):
    code, _, err = cli("shadow", "report", "mnist")
    assert code == 1
    assert "has no responses of a shadow version of mnist. Set `shadow:`" in err


def test_an_unknown_version_is_a_usage_error(cli, root):
    code, _, err = cli("shadow", "report", "m", "--version", "7")
    assert (code, "it has responses of version 1.0, 2.0" in err) == (2, True)


def test_only_waiting_responses_are_a_report_without_a_comparison(cli, tmp_path):
    root = tmp_path / ".vestal" / "shadow"
    write_digests(root, "2.0", digest("a", 1, shadow=True))
    code, out, _ = cli("shadow", "report", "m")
    assert code == 0
    assert "m: no response of shadow 2.0 was compared" in out
