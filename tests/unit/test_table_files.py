"""Read tables of users; errors have their place."""

from __future__ import annotations

import math

import pytest

from vestal.errors import UsageError
from vestal.files.tables import cell_number, read_table


def table(tmp_path, content, name="t.csv"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(file)


def test_a_csv_has_rows_by_column_with_their_lines(tmp_path):
    found = table(tmp_path, '\ufeffa,b\r\n1,"x\ny"\r\n\r\n2,z\r\n')
    assert list(found.columns) == ["a", "b"]
    assert [(r.number, r.line, dict(r.values)) for r in found.rows] == [
        (1, 3, {"a": "1", "b": "x\ny"}),
        (2, 5, {"a": "2", "b": "z"}),
    ]


def test_an_index_without_a_name_is_a_column(tmp_path):
    assert list(table(tmp_path, ",a\n0,1\n").columns) == ["", "a"]  # as pandas writes it


def test_json_lines_have_the_columns_of_all_rows(tmp_path):
    found = table(tmp_path, '\ufeff{"a": 1}\r\n\n{"b": "x", "a": null}\n', "t.jsonl")
    assert list(found.columns) == ["a", "b"]
    assert [(r.number, r.line, r.values) for r in found.rows] == [
        (1, 1, {"a": 1}),
        (2, 3, {"b": "x", "a": None}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bmi;bp;s5\n25;90;4,6\n", r"columns seem to be separated by ';'"),
        ("bmi;bp, s5\n", None),  # two columns either way
        ("bmi;bp;s5, log\n", r"separated by ';'"),
        ("bmi\tbp\n1\t2\n", r"separated by tabs"),
        ('"a;b"\n1\n', None),
        ('"a;b",c\n1,2\n', None),
        ("a,b,a\n1,2,3\n", r"several columns named 'a'"),
        ("a,,\n1,2,3\n", r"several columns named ''"),
        ("", r"is empty: the first line must name the columns"),
        ("a,b\n1\n", r"row 1 \(line 2\) has 1 fields; the first line names 2 columns"),
        ("a,b\n1,2,3\n", r"row 1 \(line 2\) has 3 fields"),
        ('a,b\n1,"2\n', r"line 2, is not CSV: unexpected end of data"),
        (f"a\n{'x' * 140_000}\n", r"line 2, is not CSV: field larger"),
        (b"a\n\xff\n", r"is not UTF-8 \(byte 2\): save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"is UTF-16: save it as UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_the_place(tmp_path, content, message):
    if message is None:
        table(tmp_path, content)
        return
    with pytest.raises(UsageError, match=rf"t\.csv.*{message}"):
        table(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"line 1, must be a JSON object, not a list"),
        ('{"a": 1}\n{"a": 1', r"line 2, is not JSON"),
        (r'{"a": "\ud83e\udd8a"}', None),
        (r'{"a": "\ud83e"}', r"line 1, is not JSON: .*surrogates not allowed"),
        ('{"a": 1, "a": 2}', r"line 1, is not JSON: several values named 'a'"),
        ('{"a": ' + "[" * 100_000, r"line 1, is not JSON"),
    ],
)
def test_json_lines_that_cannot_be_read_are_refused_with_the_line(tmp_path, content, message):
    if message is None:
        table(tmp_path, content, "t.jsonl")
        return
    with pytest.raises(UsageError, match=rf"t\.jsonl, {message}"):
        table(tmp_path, content, "t.jsonl")


def test_a_very_long_integer_in_json_is_not_a_number(tmp_path):
    line = f'{{"a": {"9" * 5002}, "b": {"9" * 310}}}'
    (row,) = table(tmp_path, line, "t.jsonl").rows
    assert cell_number(row.values["a"]) is cell_number(row.values["b"]) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("25", 25),
        (" +2.5e1 ", 25.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0" * 5002, 0),
        (str(2**63 - 1), 2**63 - 1),
        (7, 7),
        (2.5, 2.5),
        *(
            (text, None)
            for text in ("2_5", "٢٥", "\uff12\uff15", "25\u00a0", "", "x", "nan", "inf", "0x1f")
        ),
        *((text, None) for text in ("9" * 5002, "1e999", "1,5", "--1", "1e", ".")),
        *((value, None) for value in (True, None, math.nan, math.inf, [1])),
    ],
)
def test_a_cell_is_a_number_under_the_same_rules_as_in_a_form(value, number):
    assert cell_number(value) == number
    assert type(cell_number(value)) is type(number)
