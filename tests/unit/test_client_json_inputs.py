"""Arrays, tables, dicts and lists are sent as JSON, and no value is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from client_both import both
from client_wire import HTTPServer, http

from vestal import Client, InvalidInput
from vestal.client.bulk import BulkJob
from vestal.client.encoding import encode


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1, 2], [3, 4]], dtype=np.int64),
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        torch.tensor([[1, 2], [3, 4]]),
        torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
    ],
)
def test_arrays_and_tensors_are_sent_as_nested_lists(value: Any) -> None:
    payload = encode(value)
    assert payload.content_type == "application/json"
    assert json.loads(payload.body) == {"data": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"instances": [1, 2.5]}, '{"instances":[1,2.5]}'),
        ([1, [2]], "[1,[2]]"),
        ((1, 2), "[1,2]"),
        (3, "3"),
        ({"x": np.arange(2), "y": [torch.zeros(1)]}, '{"x":[0,1],"y":[[0.0]]}'),
        (np.float32(0.5), '{"data":0.5}'),
    ],
)
def test_dicts_lists_and_numbers_are_sent_as_json(value: object, text: str) -> None:
    assert encode(value).body == text.encode()


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(4, np.uint8),
        np.zeros((2, 5, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((5, 4, 2), np.uint8),
        np.zeros((5, 4, 3), np.float32),
        np.ma.masked_array(np.zeros((2, 2), np.uint8), np.array([[0, 1], [0, 0]], bool)),
        torch.zeros(5, 4, 3, dtype=torch.uint8),
    ],
)
def test_any_other_array_is_sent_as_json(value: Any) -> None:
    assert json.loads(encode(value).body) == {"data": value.tolist()}


def test_a_pandas_row_is_sent_by_name_and_a_table_as_instances() -> None:
    table = pd.DataFrame({"bmi": [0.5, 1.5], "sex": [1, 2]})
    assert json.loads(encode(table.iloc[0]).body) == {"bmi": 0.5, "sex": 1}
    instances = [{"bmi": 0.5, "sex": 1}, {"bmi": 1.5, "sex": 2}]
    assert json.loads(encode(table).body) == {"instances": instances}
    when = pd.Series({"at": pd.Timestamp("2026-01-02"), "n": np.int64(3)})
    assert json.loads(encode(when).body) == {"at": "2026-01-02T00:00:00", "n": 3}
    with pytest.raises(InvalidInput, match="JSON"):
        encode(pd.Series({"bmi": float("nan")}))
    with pytest.raises(InvalidInput, match="it holds a pandas"):
        encode(pd.Index([1]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame([[1, 2, 3]], columns=["bmi", "bp", "bmi"]), r"several columns .*\(bmi\)"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), r"several columns .*\(1\)"),
        (pd.Series([1, 2], index=["bmi", "bmi"]), r"several index labels .*\(bmi\)"),
        (pd.Series([1, 2], index=[1, "1"]), r"several index labels .*\(1\)"),
        (
            pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
            "join",
        ),
        (
            pd.Series([1], index=pd.MultiIndex.from_tuples([("a", "b")])),
            r"\('a', 'b'\) .*is a tuple",
        ),
        ({"row": pd.DataFrame([[1, 2]], columns=["a", "a"])}, r"several columns .*\(a\)"),
        ({1: "a", "1": "b"}, r"keys 1 and '1' are both '1'"),
        ([{"x": ({True: 1, "true": 2},)}], r"keys True and 'true' are both 'true'"),
        ({None: 1, "null": 2}, r"keys None and 'null'"),
        ({1.5: 1, "1.5": 2}, r"keys 1.5 and '1.5'"),
        (pd.Series({"at": pd.NaT}), "it holds a pandas"),
    ],
)
def test_a_value_that_json_would_drop_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        encode(value)


def test_the_rows_of_a_table_with_two_columns_of_one_name_are_refused() -> None:
    table = pd.DataFrame([[1, 2]], columns=["bmi", "bmi"])
    with pytest.raises(InvalidInput, match=r"several columns .*\(bmi\)"):
        BulkJob(table, 8, None)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (pd.DataFrame({"bmi": [1, 2], "bp": [1, float("nan")]}), r"instances\[1\]\['bp'\] is nan"),
        (pd.Series({"bmi": float("inf")}), r"\['bmi'\] is inf"),
        ({"data": np.array([[1, np.nan]])}, r"\['data'\]\[0\]\[1\] is nan"),
        (float("nan"), "the value is nan"),
    ],
)
def test_the_error_for_nan_or_infinity_names_its_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidInput, match=f"{place}; JSON has neither NaN nor infinity"):
        encode(value)


def test_keys_other_than_strings_are_sent_if_they_stay_distinct() -> None:
    assert json.loads(encode({1: "a", "2": {None: "b"}}).body) == {"1": "a", "2": {"null": "b"}}
    assert json.loads(encode(pd.Series([1.5, 2.5])).body) == {"0": 1.5, "1": 2.5}


def test_bytes_inside_json_are_sent_as_base64() -> None:
    assert encode({"data": b"raw", "target": "7"}).body == b'{"data":"cmF3","target":"7"}'


@both
@pytest.mark.parametrize("nest", [lambda each: {"data": each}, lambda each: [{"a": [each]}]])
def test_a_path_inside_json_is_read(kind: type[Client], nest: Any, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    file.write_bytes(b"\x89PNG...")
    with HTTPServer(lambda _: http(200, {})) as server, kind(server.url) as client:
        client.predict("m", nest(file))
        client.predict("m", nest(b"\x89PNG..."))
    first, second = server.received
    assert first.body == second.body
    assert b"seven.png" not in first.body


@both
def test_a_path_inside_json_that_cannot_be_read_is_named(
    kind: type[Client], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with kind("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidInput, match=r"missing\.png cannot be read: No such file"):
            client.predict("m", {"data": tmp_path / "missing.png"})
        for other in (tmp_path, pipe):  # a pipe would be waited for
            with pytest.raises(InvalidInput, match="is not a file"):
                client.predict("m", [0] * 100 + [other])
