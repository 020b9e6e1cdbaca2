"""Text or a vector in, a label out; and the hashing that training and serving share."""

from __future__ import annotations

import json
import zlib
from urllib.parse import quote

import pytest
import torch
from folders import as_json, ask, handler_of, write_archive
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.text.hashing import TextTransform

LABELS = ["code", "prose"]
CODE = "def first(items):\n    return items[0]"
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen."
TRANSFORMS = """
from vestal_handlers.text.hashing import TextTransform

transform = TextTransform(size=2048, words=2)
"""


def simplenet():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2048, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        net[0].weight.mul_(20)  # so that a text moves the answer
    return net


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simplenet")
    options = {"max_chars": 5000, "explain_words": 5}
    write_archive(
        folder,
        "text_classifier",
        simplenet(),
        options=options,
        labels=LABELS,
        transforms=TRANSFORMS,
    )
    with LoadedArchive(folder) as loaded:
        yield loaded


def plain(vector):
    """As the tutorials write it."""
    model = simplenet().eval()
    with torch.no_grad():
        return torch.softmax(model(vector.unsqueeze(0)), dim=1)[0]


def matches(answer, text):
    probabilities = plain(TextTransform()(text))
    assert answer["label"] == LABELS[int(probabilities.argmax())]
    assert answer["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert answer["top"][0]["label"] == answer["label"]
    return True


@pytest.mark.parametrize("text", [CODE, PROSE, "🦊 🦊!", "これは本です", "x", "a\tb\n\n"])
def test_an_answer_is_a_plain_scripts(archive, text):
    assert matches(ask(archive, as_json(text)).json(), text)


@pytest.mark.parametrize(
    "given",
    [
        as_json(PROSE),
        as_json({"text": PROSE}),
        as_json({"data": PROSE}),
        as_json({"data": {"text": PROSE}}),
        Input.raw(PROSE.encode(), "text/plain"),
        Input.raw(PROSE.encode()),
        Input.form({"text": PROSE}),
        Input.form(any_name=(PROSE.encode(), "text/plain")),
        as_json({"vector": TextTransform()(PROSE).tolist()}),
        as_json(TextTransform()(PROSE).tolist()),
        as_json({"data": TextTransform()(PROSE).tolist()}),
    ],
)
def test_every_way_to_send_a_text_gives_the_same(archive, given):
    answer = ask(archive, given)
    assert answer.status == 200, answer.body
    assert matches(answer.json(), PROSE)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (as_json({"instances": [PROSE, CODE]}), 2),
        (as_json([{"text": PROSE}, {"text": CODE}]), 2),
        (as_json([TextTransform()(text).tolist() for text in (PROSE, CODE)]), 2),
    ],
)
def test_several_texts_are_several_answers(archive, given, count):
    first, last = ask(archive, given).json()["predictions"]
    assert matches(first, PROSE)
    assert matches(last, CODE)


def test_good_bad_good_each_gets_its_own(archive):
    answers = archive.predict([as_json(CODE), as_json({"txt": CODE}), as_json(PROSE)])
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert matches(answers[0].json(), CODE)
    assert matches(answers[2].json(), PROSE)


ACCENTS = "für: naïve café"


def declared(charset, text=ACCENTS, kind="text/plain"):
    return Input.from_http(text.encode(charset), f"{kind}; charset={charset}")


@pytest.mark.parametrize(
    "given",
    [
        declared("utf-8"),
        declared("utf-16le"),
        declared("utf-16"),
        declared("utf-16be"),
        declared("iso-8859-1"),
        declared("Windows-1252"),
        Input.from_http(ACCENTS.encode("latin-1"), 'Text/Plain; format=flowed; Charset="latin-1"'),
        Input.from_http(b"\xef\xbb\xbf" + ACCENTS.encode(), "text/plain"),
        Input.from_http(b"\xef\xbb\xbf" + ACCENTS.encode()),
        Input.from_http(b"\xff\xfe" + ACCENTS.encode("utf-16le"), "text/plain; charset=utf-16le"),
        Input.from_http(b"\xef\xbb\xbf" + json.dumps(ACCENTS).encode(), "application/json"),
        declared("latin-1", json.dumps(ACCENTS, ensure_ascii=False), "application/json"),
        declared("utf-16le", json.dumps({"text": ACCENTS}), "application/json"),
        Input.from_http(
            b"text=" + quote(ACCENTS.encode("latin-1")).encode(),
            "application/x-www-form-urlencoded; charset=latin-1",
        ),
        Input.form(any_name=(b"\xef\xbb\xbf" + ACCENTS.encode(), "text/plain")),
        Input.form(any_name=(ACCENTS.encode(), "application/octet-stream")),
    ],
)
@pytest.mark.parametrize("decode", [False, True], ids=["raw", "decoded by the server"])
def test_a_declared_charset_and_a_byte_order_mark_change_no_answer(archive, given, decode):
    archive._decode, before = decode, archive._decode
    try:
        answer = ask(archive, given)
    finally:
        archive._decode = before
    assert answer.status == 200, answer.body
    assert matches(answer.json(), ACCENTS)


@pytest.mark.parametrize(
    "charset", ["klingon", "hex", "utf-7", "KLINGON", "rot13", "idna", "x" * 500, "a.b"]
)
def test_a_charset_that_is_not_known_is_named(archive, charset):
    answer = ask(archive, Input.from_http(b"text", f"text/plain; charset={charset}"))
    assert answer.status == 415
    assert f"charset '{charset[:5].lower()}" in answer.json()["message"].replace("_", "-")


def test_a_charset_that_is_encoded_itself_is_not_looked_up(archive):
    answer = ask(archive, Input.from_http(b"text", "text/plain; charset*=klingon''utf-8"))
    assert answer.status == 415
    assert "is unknown; send UTF-8" in answer.json()["message"]


def test_bytes_that_do_not_fit_their_charset_are_refused(archive):
    answer = ask(archive, Input.from_http(b"odd", "text/plain; charset=utf-16le"))
    assert answer.status == 400
    assert "not utf_16_le (byte 2), the charset in its Content-Type" in answer.json()["message"]


@pytest.mark.parametrize("charset", ["utf-16le", "iso-8859-1"])
@pytest.mark.parametrize("file", ['; filename="t.txt"', ""])
@pytest.mark.parametrize("text", ["plain", ACCENTS])
def test_a_part_of_a_form_in_another_charset_is_refused(archive, charset, file, text):
    """TorchServe does not pass on its charset: it is UTF-8, or 415."""
    head = f'Content-Disposition: form-data; name="text"{file}\r\n'
    head += f"Content-Type: text/plain; charset={charset}\r\n\r\n"
    body = b"--b\r\n" + head.encode() + text.encode(charset) + b"\r\n--b--\r\n"
    answer = ask(archive, Input.from_http(body, "multipart/form-data; boundary=b"))
    if (charset, text) == ("iso-8859-1", "plain"):
        assert matches(answer.json(), text)
        return
    assert answer.status == 415
    assert "TorchServe does not pass on the charset of a part" in answer.json()["message"]


VECTOR = [0.0] * 2048


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        (Input.raw(b"caf\xe9", "text/plain"), 400, "the text is not UTF-8 (byte 3); send it"),
        (Input.raw(b"\xff\xfe"), 400, "the text is not UTF-8 (byte 0); send it"),
        (Input.raw(b'"\\ud800"', "application/json"), 400, ""),
        (as_json("x" * 5001), 413, "a text of 5,001 characters, at most 5,000 (handler.max_chars)"),
        (as_json({"text": "x" * 5001}), 413, "a text of 5,001 characters"),
        (Input.raw(b"x" * 5001), 413, "a text of 5,001 characters"),
        (as_json(""), 422, "the input must have at least 1 character, got 0"),
        (Input.raw(b""), 422, "the input must have at least 1 character, got 0"),
        (as_json(" \n\t "), 422, "the text has no words, only whitespace"),
        (as_json({"text": 5}), 422, "field 'text' must be a string, got 5"),
        (
            as_json({"txt": "x"}),
            422,
            "field 'txt' is unknown: did you mean 'text'? the fields are text, target",
        ),
        (as_json(5), 422, "the input must be a string or a list or an object, got 5"),
        (as_json(VECTOR[:-1]), 422, "the input must have exactly 2048 items, got 2047"),
        (as_json({"vector": [1]}), 422, "field 'vector' must have exactly 2048 items, got 1"),
        (as_json([*VECTOR[:-1], "1"]), 422, "item [2047] of the input must be a number"),
        (
            Input.raw(json.dumps([*VECTOR[:-1], float("nan")]).encode(), "application/json"),
            422,
            "item [2047] of the input must be a finite number, got NaN",
        ),
        (
            as_json({"vector": [True, *VECTOR[1:]]}),
            422,
            "field 'vector[0]' must be a number, got true",
        ),
        (as_json(["a", "text"]), 422, "the input must have exactly 2048 items, got 2"),
        (
            as_json({"text": "x", "target": "poem"}),
            422,
            "field 'target' must be one of code, prose",
        ),
    ],
)
def test_what_is_wrong_is_named(archive, given, status, message):
    answer = ask(archive, given)
    assert answer.status == status, answer.body
    assert answer.json()["message"].startswith(message)


def test_below_the_threshold_there_is_no_label(tmp_path):
    options = {"threshold": 1.0, "top_k": 1}
    write_archive(tmp_path, "text_classifier", simplenet(), options=options, labels=LABELS)
    with LoadedArchive(tmp_path) as loaded:
        answer = ask(loaded, as_json("hello")).json()
    assert answer["label"] is None
    assert answer["top"][0]["label"] in LABELS


def test_a_models_own_softmax_is_not_done_twice(tmp_path):
    model = nn.Sequential(simplenet(), nn.Softmax(dim=1))
    options = {"outputs": "probabilities"}
    write_archive(tmp_path, "text_classifier", model, options=options, labels=LABELS)
    with LoadedArchive(tmp_path) as loaded:
        assert matches(ask(loaded, as_json(PROSE)).json(), PROSE)


def test_describe_says_what_to_send_and_its_example_is_answered(archive):
    jsonschema = pytest.importorskip("jsonschema")
    described = ask(archive, Input({}, {"describe": "True"})).json()
    assert described["labels"] == LABELS
    assert described["limits"]["max_chars"] == 5000
    for schema in (described["input"], described["output"]):
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(described["example"], described["input"])
    answer = ask(archive, as_json(described["example"]))
    jsonschema.validate(answer.json(), described["output"])


def test_an_explanation_names_words_and_adds_up(archive):
    answer = ask(archive, as_json({"text": PROSE, "target": "prose"}, explain="True")).json()
    assert (answer["target"], answer["method"]) == ("prose", "integrated_gradients")
    assert len(answer["attributions"]) == 5
    words = {one["word"]: one for one in answer["attributions"]}
    assert all(word in PROSE for word in words)
    sizes = [abs(one["attribution"]) for one in answer["attributions"]]
    assert sizes == sorted(sizes, reverse=True)
    total = sum(one["attribution"] for one in answer["attributions"]) + answer["rest"]
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert gained == pytest.approx(
        float(plain(TextTransform()(PROSE))[1] - plain(torch.zeros(2048))[1]), abs=1e-5
    )
    assert total == pytest.approx(gained, abs=5e-3)


def test_a_vectors_explanation_is_by_place(archive):
    vector = TextTransform()(CODE).tolist()
    answer = ask(archive, as_json({"vector": vector}, explain="True")).json()
    assert answer["target"] == answer["label"]
    assert len(answer["attributions"]) == 2048
    assert all(a == 0 for a, v in zip(answer["attributions"], vector, strict=True) if v == 0)
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert sum(answer["attributions"]) == pytest.approx(gained, abs=5e-3)


def test_predictions_and_explanations_share_a_batch(archive):
    answers = archive.predict(
        [as_json(CODE), as_json(CODE, explain="True"), as_json("", explain="True"), as_json(PROSE)]
    )
    assert [answer.status for answer in answers] == [200, 200, 422, 200]
    assert matches(answers[0].json(), CODE)
    assert matches(answers[1].json(), CODE)
    assert matches(answers[3].json(), PROSE)
    assert "attributions" in answers[1].json()


def test_serving_hashes_as_training_does(archive):
    vector = handler_of(archive).transform(CODE)
    assert torch.equal(vector, TextTransform()(CODE))


def test_hashing_is_the_same_on_every_machine():
    """Written down once, and by whole numbers: another place would make trained models wrong."""
    buckets = TextTransform().buckets(["to", "be", "to", "be"])
    assert [of_n.tolist() for of_n in buckets] == BUCKETS
    knuth, crc = 2654435761, [zlib.crc32(word) for word in (b"to", b"be")]
    pair = (crc[0] * knuth * knuth + crc[1]) * knuth % 2**32
    assert BUCKETS[1][0] == (pair ^ (pair >> 15)) % 2048


BUCKETS = [[706, 1547, 706, 1547], [1788, 152, 1788]]


def test_word_order_counts_by_pairs_only():
    pairs, single = TextTransform(words=2), TextTransform(words=1)
    assert torch.equal(single("dog bites man"), single("man bites dog"))
    assert not torch.equal(pairs("dog bites man"), pairs("man bites dog"))


@given(st.text(max_size=200), st.integers(1, 3), st.integers(8, 64))
def test_a_vector_has_length_one_and_its_values_are_shared_out_whole(text, words, size):
    if any("\ud800" <= character <= "\udfff" for character in text):
        return  # no Unicode text; a request with it is refused before
    transform = TextTransform(size=size, words=words)
    vector, split = transform(text), transform.split(text)
    assert vector.dtype == torch.float32
    assert vector.shape == (size,)
    assert float(vector.norm()) == pytest.approx(1.0 if split else 0.0, abs=1e-6)
    shares = transform.distribute(split, vector)
    assert len(shares) == len(split)
    assert sum(shares) == pytest.approx(float(vector.sum()), abs=1e-5)
