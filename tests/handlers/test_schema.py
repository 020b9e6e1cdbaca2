"""Validation against a table of cases, and against a full JSON Schema validator."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal_handlers.errors import InputError
from vestal_handlers.requests.schema import FLOAT32, validate

PATIENT = {
    "type": "object",
    "properties": {
        "bmi": FLOAT32,
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "sex": {"enum": ["female", "male", None, 1]},
        "name": {"type": ["string", "null"], "minLength": 1, "maxLength": 5},
        "visits": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {"type": "object", "properties": {"day": {"type": "number"}}},
        },
    },
    "required": ["bmi"],
    "additionalProperties": False,
}
ROW = {
    "type": "array",
    "prefixItems": [{"title": name, **FLOAT32} for name in ("bmi", "bp", "s5")],
    "minItems": 3,
    "maxItems": 3,
}
EITHER = {"anyOf": [PATIENT, ROW]}
VECTOR = {"type": "array", "items": FLOAT32, "minItems": 2, "maxItems": 4}
TEXT_OR_VECTOR = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        VECTOR,
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        {"type": "object", "properties": {"vector": VECTOR}, "required": ["vector"]},
    ]
}


def refusal(value, schema):
    with pytest.raises(InputError) as caught:
        validate(value, schema, "the row")
    assert caught.value.status == 422
    return caught.value.message


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"bmi": 0.06}, PATIENT),
        ({"bmi": 1, "age": 149, "sex": None, "name": None, "visits": [{"day": 1}]}, PATIENT),
        ({"bmi": -0.0, "age": 3.0, "sex": 1}, PATIENT),
        ([1, 2.5, -3], ROW),
        ([1, 2.5, -3], EITHER),
        ({"bmi": 0.06}, EITHER),
        ("x", TEXT_OR_VECTOR),
        ({"vector": [1, 2]}, TEXT_OR_VECTOR),
        (None, {}),
    ],
)
def test_a_valid_value_is_accepted(value, schema):
    validate(value, schema)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        ({"bmi": "abc"}, PATIENT, """field 'bmi' must be a number, got a string "abc\""""),
        ({"bmi": True}, PATIENT, "field 'bmi' must be a number, got true"),
        ({"bmi": None}, PATIENT, "field 'bmi' must be a number, got null"),
        ({"bmi": [1, 2]}, PATIENT, "field 'bmi' must be a number, got a list of 2"),
        ({"bmi": NAN}, PATIENT, "field 'bmi' must be a finite number, got NaN"),
        ({"bmi": -INFINITY}, PATIENT, "field 'bmi' must be a finite number, got -Infinity"),
        ({"bmi": 1e39}, PATIENT, "field 'bmi' must be at most 3.4028235e+38, got 1e+39"),
        (
            {"bmi": -(10**400)},
            PATIENT,
            "field 'bmi' must be at least -3.4028235e+38, got an integer of many digits",
        ),
        ({}, PATIENT, "field 'bmi' is missing: the row needs bmi"),
        (
            {"bmi": 1, "aeg": 2},
            PATIENT,
            "field 'aeg' is unknown: did you mean 'age'? "
            "the fields are bmi, age, sex, name, visits",
        ),
        (
            {"bmi": 1, "zzzz": 2},
            PATIENT,
            "field 'zzzz' is unknown: the fields are bmi, age, sex, name, visits",
        ),
        ({"bmi": 1, "age": 2.5}, PATIENT, "field 'age' must be an integer, got 2.5"),
        ({"bmi": 1, "age": -1}, PATIENT, "field 'age' must be at least 0, got -1"),
        ({"bmi": 1, "age": 150}, PATIENT, "field 'age' must be below 150, got 150"),
        (
            {"bmi": 1, "sex": "mall"},
            PATIENT,
            "field 'sex' must be one of female, male, null, 1, "
            "got a string \"mall\" (did you mean 'male'?)",
        ),
        (
            {"bmi": 1, "sex": True},
            PATIENT,
            "field 'sex' must be one of female, male, null, 1, got true",
        ),
        (
            {"bmi": 1, "name": ""},
            PATIENT,
            "field 'name' must have at least 1 character, got 0",
        ),
        (
            {"bmi": 1, "name": "Mathilde"},
            PATIENT,
            "field 'name' must have at most 5 characters, got 8",
        ),
        ({"bmi": 1, "name": 1}, PATIENT, "field 'name' must be a string or null, got 1"),
        (
            {"bmi": 1, "visits": [{"day": 1}, {"day": "x"}]},
            PATIENT,
            "field 'visits[1].day' must be a number, got a string \"x\"",
        ),
        (5, PATIENT, "the row must be an object, got 5"),
        (5, EITHER, "the row must be an object or a list, got 5"),
        ([1, 2], EITHER, "the row must have exactly 3 items (bmi, bp, s5), got 2"),
        ([1, "2", 3], ROW, "field 'bp' must be a number, got a string \"2\""),
        ([1, 2, NAN], EITHER, "field 's5' must be a finite number, got NaN"),
        ([1, 2, None], VECTOR, "item [2] of the row must be a number, got null"),
        ([1], VECTOR, "the row must have at least 2 items, got 1"),
        (
            {"vector": [1, NAN]},
            TEXT_OR_VECTOR,
            "field 'vector[1]' must be a finite number, got NaN",
        ),
        ("x" * 99, {"type": "null"}, f'the row must be null, got a string "{"x" * 40}"...'),
        (b"x", {"type": "null"}, "the row must be null, got bytes"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(value, schema, message):
    assert refusal(value, schema) == message


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "female", "many letters"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["bmi", "age", "sex", "name", "day", "text"]), inner),
        st.fixed_dictionaries({"bmi": inner}, optional={"age": inner, "visits": st.lists(inner)}),
        st.fixed_dictionaries({}, optional={"vector": inner, "text": inner}),
    ),
    max_leaves=8,
)


@given(JSON_VALUES, st.sampled_from([PATIENT, ROW, EITHER, VECTOR, TEXT_OR_VECTOR]))
def test_the_result_is_that_of_a_full_validator(value, schema):
    jsonschema = pytest.importorskip("jsonschema")
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    try:
        validate(value, schema)
    except InputError:
        assert not expected
    else:
        assert expected


def test_every_schema_is_valid():
    json.dumps([PATIENT, EITHER], allow_nan=False)
