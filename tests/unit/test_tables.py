"""Tables and texts of users: how they are read, and how large they must be."""

from __future__ import annotations

import json
from functools import partial

import pytest

from vestal.errors import VestalError
from vestal.files.tables import read_table
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import Recipe
from vestal.training import language
from vestal.training.tables import plain_text, rows

CELL = "It\u2028rained\x0b,\x85all\x0cday"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_lines_end_as_the_format_defines(suffix, tmp_path):
    file = tmp_path / f"t.{suffix}"
    lines = ["text,label", f'"{CELL}",wet', "No.,dry"]
    if suffix == "jsonl":
        texts = [{"text": CELL, "label": "wet"}, {"text": "No.", "label": "dry"}]
        lines = [json.dumps(text, ensure_ascii=False) for text in texts]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    assert [row.values["text"] for row in read_table(file).rows] == [CELL, "No."]


def test_a_plain_text_is_split_only_at_line_ends(tmp_path):
    file = tmp_path / "t.txt"
    lines = [f"{n} {CELL}\r\n" for n in range(80)]
    file.write_text("\ufeff" + "".join(lines), "utf-8", newline="")
    splits = plain_text(file=file, context=60)
    pieces = [splits.train[n][0] for n in range(len(splits.train))]
    assert all(piece.endswith("day\r\n") and piece.count(CELL) == 2 for piece in pieces)
    held_out = [splits.test[n][0] for n in range(len(splits.test))]
    assert all(passage.count(CELL) >= 1 for passage in held_out)


def test_a_table_that_is_just_large_enough_has_two_rows_in_every_split(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["a,b", *(f"{n},{n}" for n in range(12))]))
    splits = rows(file=file, features=("a",), target="b")
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [7, 2, 3]
    seen = sorted(
        int(part[i][1]) for part in vars(splits).values() if part for i in range(len(part))
    )
    assert seen == list(range(12))


@pytest.mark.parametrize(("lines", "part"), [(45, "training"), (300, "validation"), (3000, None)])
def test_the_error_about_a_short_text_names_its_tokens(lines, part, tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("".join(f"line {n}\n" for n in range(lines)))
    recipe = Recipe(
        task="text_generator",
        build=list,
        objective=NextToken(context=256),
        datasets={},
        batch_size=1,
        learning_rate=1.0,
        formats=(),
        tokenizer=partial(language.byte_level_bpe, vocabulary=300),
    )
    splits = plain_text(file=file, context=256)
    if part is None:
        _, blocks = language.tokenize(recipe, splits)
        assert min(len(b) for b in (blocks.train, blocks.validation, blocks.test)) > 0
        return
    with pytest.raises(VestalError, match=rf"the {part} texts have \d+ tokens, .* requires 257"):
        language.tokenize(recipe, splits)
