"""Errors in serving.yaml: file, line, key and what was expected."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_yaml import FULL
from serving_yaml import file as file
from serving_yaml import refuse as refuse

from vestal.errors import UsageError
from vestal.fleet.serving_file import load


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("adress: ::1", "gateway.adress: unknown key; did you mean address?"),
        ("tls: {certificate: a}", "gateway.tls.key: missing"),
        ("tls: {certificate: a, key: b, ca: c}", "gateway.tls.ca: unknown key; expected one of"),
        ("port: 65536", "gateway.port: expected a port from 0 to 65,535, got 65536"),
        ("address: localhost", "gateway.address: expected an IP address, such as 127.0.0.1"),
        ("max_body: 6553500", "gateway.max_body: expected a size with its unit"),
        ("rate_limit: 0", "gateway.rate_limit: expected a whole number from 1 to 1,000,000, got 0"),
        ("header_timeout: 0", "gateway.header_timeout: expected a duration above 0"),
        (
            'address: "::"',
            "gateway: other machines reach address ::: add `api_keys: FILE`, or `anonymous: true` "
            "if anybody may call the models",
        ),
    ],
)
def test_an_invalid_value_of_the_gateway_is_named(
    keys: str, message: str, refuse: Callable[[str], list[str]]
) -> None:
    [line] = refuse(f"models: {{}}\ngateway:\n  {keys}\n")
    assert message in line
    assert line.startswith(("serving.yaml:2: ", "serving.yaml:3: "))


def test_all_errors_are_listed_with_their_lines(refuse: Callable[[str], list[str]]) -> None:
    assert refuse(
        """models:
  mnist:
    version: "2.0"
    wrokers: 2
    also:
      - {version: "1.0", worker: 1}
    workers: {min: 3, max: 2}
    probe: {inptu: 7.png}
    version: "2.1"
    keep_previous: 10 parsecs
    nonsense: 1
  gpt2:
    workers: 0
model: {}
"""
    ) == [
        "serving.yaml:4: models.mnist.wrokers: unknown key; did you mean workers?",
        "serving.yaml:6: models.mnist.also[0].worker: unknown key; did you mean workers?",
        "serving.yaml:7: models.mnist.workers: min (3) is larger than max (2)",
        "serving.yaml:8: models.mnist.probe.inptu: unknown key; did you mean input?",
        "serving.yaml:9: models.mnist.version: the key is already in line 3; remove one",
        "serving.yaml:10: models.mnist.keep_previous: expected a duration, such as 10m, or "
        "forever, or 0, got 10 parsecs",
        "serving.yaml:11: models.mnist.nonsense: unknown key; expected one of version, archive, "
        "workers, memory_limit, also, canary, shadow, probe, ready_timeout, settle_time, "
        "max_error_rate, max_latency_ratio, keep_previous, required",
        "serving.yaml:12: models.gpt2.version: missing",
        "serving.yaml:13: models.gpt2.workers: expected a whole number of at least 1, or "
        "{min: 1, max: 2}, got 0",
        "serving.yaml:14: model: unknown key; did you mean models?",
    ]


def test_of_many_errors_the_first_20_are_listed(refuse: Callable[[str], list[str]]) -> None:
    lines = refuse("models:\n" + "".join(f"  m{n}: {{}}\n" for n in range(50)))
    assert lines[0] == "serving.yaml:2: models.m0.version: missing"
    assert (len(lines), lines[-1]) == (21, "and 30 more")


@pytest.mark.parametrize("version", ["1.10", "2", "true", "0x10", "1.0e+3"])
def test_a_version_must_be_in_quotes(version: str, refuse: Callable[[str], list[str]]) -> None:
    [line] = refuse(f"models:\n  m:\n    version: {version}\n")
    assert line == (
        'serving.yaml:3: models.m.version: expected a version in quotes, such as "2.0", because '
        f"other programs read 1.10 as 1.1, got {version}"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("workers: -1", "workers: expected a whole number of at least 1, or {min: 1, max: 2}"),
        ("workers: true", "workers: expected a whole number of at least 1, or"),
        ("workers: two", "got two"),
        ("workers: 1.5", "got 1.5"),
        ("workers: {min: 0}", "workers.min: expected a whole number from 1 to 1,000, got 0"),
        ("workers: {max: 99999}", "workers.max: expected a whole number from 1 to 1,000"),
        ("workers: {min: .inf}", "workers.min: expected a finite number, got .inf"),
        ("workers: 1" + "0" * 5000, "workers: expected a"),
        ("workers: {}\n    settle_time: -1s", "settle_time: expected a duration, such as 30s"),
        ("settle_time: .nan", "settle_time: expected a finite number, got .nan"),
        ("settle_time: 1e308h", "settle_time: expected a duration"),
        ("settle_time:", "settle_time: expected a duration, such as 30s, 10m, 2h or a number of "),
        ("ready_timeout: 0", "ready_timeout: expected a duration above 0"),
        ("keep_previous: never", "expected a duration, such as 10m, or forever, or 0, got never"),
        ("max_error_rate: 2", "max_error_rate: expected a fraction from 0 to 1, or a percentage"),
        ("max_error_rate: 200%", 'such as "0.5%", got 200%'),
        ("max_latency_ratio: 1", "max_latency_ratio: expected a number above 1, such as 1.5"),
        ("max_latency_ratio: 1.0e+999", "max_latency_ratio: expected a finite number"),
        ("memory_limit: 2", "memory_limit: expected a size with its unit, such as 2GB"),
        ("memory_limit: 1kB", "of at least 1 MiB, got 1kB"),
        ("required: 1", "required: expected true or false, got 1"),
        ("required: !!bool maybe", "required: expected true or false, got maybe"),
        ("required: !!bool", "required: expected true or false, got nothing"),
        ("workers: !!int", "workers: expected a finite number, got nothing"),
        ("max_latency_ratio: !!float", "max_latency_ratio: expected a finite number, got nothing"),
        ("archive: ../../etc/passwd", "archive: expected a file name in the model store, without"),
        ("archive: https://evil/m.mar", "archive: expected a file name in the model store"),
        ("probe: 7.png", "probe: expected {input: FILE}, or a list of them, got 7.png"),
        ("probe: {input: 7}", "probe.input: expected the path of a file, got 7"),
        ("probe: [{input: a}, {inputs: b}]", "probe[1].inputs: unknown key; did you mean input?"),
        ('probe: {input: a, content_type: "a\\r\\nb"}', "expected a content type"),
        ("probe: {input: a, expect: {p: .nan}}", "probe.expect.p: expected a finite number"),
        ("also: '1.0'", 'also: expected a list, got "1.0"'),
        ("also: [1.0]", 'also[0]: expected a version in quotes, such as "2.0", because'),
        ('also: [""]', "also[0]: expected a version of letters, digits, `_`, `-` and `.`"),
        ("canary: {weight: 1}", "canary.version: missing"),
        ('canary: {version: "2", weight: 101}', "expected a percentage from 0 to 100, such as 10"),
        ('canary: {version: "2", weight: nan%}', "weight: expected a percentage from 0 to 100"),
        ('canary: {version: "2", weigth: 1}', "canary.weigth: unknown key; did you mean weight?"),
        (
            'canary: {version: "2", weight: 1, sticky: {headr: x}}',
            "canary.sticky.headr: unknown key; did you mean header?",
        ),
        (
            'canary: {version: "2", weight: 1, sticky: {}}',
            "canary.sticky: expected either `header` or `cookie`",
        ),
        (
            'canary: {version: "2", weight: 1, sticky: {header: "a b"}}',
            "canary.sticky.header: expected the name of a header or a cookie, such as x-user",
        ),
        ('shadow: {version: "2", sample: -1}', "shadow.sample: expected a percentage from 0 to"),
        ("also: !!set {a}", "also: the tag tag:yaml.org,2002:set is not supported"),
        ("also: !!python/object:os.system []", "also: the tag tag:yaml.org,2002:python/object"),
        ("? [a, b]\n    : 1", "models.m: a key must be text"),
    ],
)
def test_an_invalid_value_is_named_with_what_was_expected(
    keys: str, message: str, refuse: Callable[[str], list[str]]
) -> None:
    lines = refuse(f'models:\n  m:\n    version: "1.0"\n    {keys}\n')
    assert message in lines[0]
    assert lines[0].startswith("serving.yaml:")
    assert len(lines) == 1
    assert len(lines[0]) < 300


@pytest.mark.parametrize("name", ['"a b"', "a/b", '""', "..", "é", '"a\\nb"'])
def test_the_name_of_a_model_must_fit_into_a_url(
    name: str, refuse: Callable[[str], list[str]]
) -> None:
    [line] = refuse(f'models:\n  {name}: {{version: "1.0"}}\n')
    assert line.startswith("serving.yaml:2: models.")
    assert "expected a name of letters, digits, `_`, `-` and `.`" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "serving.yaml:1: the file is empty; expected `models:` with an entry for each model"),
        ("# nothing\n", "serving.yaml:1: the file is empty; expected"),
        ("- mnist\n", "serving.yaml:1: expected keys with values, got a list"),
        ("mnist", "serving.yaml:1: expected keys with values, got mnist"),
        ("models:\n", "serving.yaml:1: models: expected keys with values, got nothing"),
        ("models: [mnist]\n", "serving.yaml:1: models: expected keys with values, got a list"),
        ("models: {}\ngateway: 1\n", "serving.yaml:2: gateway: expected keys with values, got 1"),
        ("models:\n  m: 2.0\n", "serving.yaml:2: models.m: expected keys with values, got 2.0"),
        ("models:\n\tm: 1\n", "serving.yaml:2: not YAML: a tab at the start of a line; indent"),
        ("models: {\n", "serving.yaml:2: not YAML: "),
        ("a: &x 1\nmodels: *x\n", "serving.yaml:2: not YAML: the alias *x is not supported"),
        ("models: {}\n---\nmodels: {}\n", "serving.yaml:2: not YAML: but found another document"),
        ("models: {}\n\n\x00", "serving.yaml:3: not YAML: unexpected character '\\x00'"),
        (b"\xff\xfe", "serving.yaml is UTF-16: save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\xaa", "serving.yaml is not UTF-8 (byte 0): save it as UTF-8"),
        ("[" * 50_000, "serving.yaml is nested too deeply"),
        (b"#" * 300_000, "serving.yaml has 300,000 bytes; expected at most 262,144"),
    ],
)
def test_a_file_that_is_something_else_gets_one_sentence(
    text: str | bytes, message: str, refuse: Callable[[str | bytes], list[str]]
) -> None:
    lines = refuse(text)
    assert lines[0].startswith(message)
    assert len(lines) == 1


def test_a_billion_laughs_are_refused_at_the_first(refuse: Callable[[str], list[str]]) -> None:
    laughs = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
    assert refuse(f"l0: &l0 [ha]\n{laughs}") == [
        "serving.yaml:2: not YAML: the alias *l0 is not supported"
    ]


@settings(deadline=None)
@given(st.data())
def test_no_edit_of_a_file_gets_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = FULL
    pieces = st.sampled_from(["\t", ":", "- ", "{", "[", "&a ", "*a", "<<: ", "!!int ", "? ", '"'])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(pieces | st.text(max_size=3)) + text[end:]
    file = tmp_path_factory.getbasetemp() / "edited.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UsageError):
        load(file)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*none\.yaml"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path / "pipe")
