"""`vestal batch`: inputs, predictions, labels and errors in its output."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pandas
import pytest
import torch
import typer
from small_models import language_model, packed
from torchvision.io import encode_png
from typer.testing import CliRunner

from vestal.archive.pack import pack
from vestal.batch.model import load_model
from vestal.batch.run import run
from vestal.cli.batch import batch as command
from vestal.errors import UsageError
from vestal.mar.store import find_archive
from vestal.project import Project

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("batch"))


@pytest.fixture(scope="module")
def mnist(project):
    return packed(project, "mnist")


@pytest.fixture(scope="module")
def regression(project):
    return packed(project, "regression")


@pytest.fixture(scope="module")
def simplenet(project):
    return packed(project, "simplenet")


@pytest.fixture
def images(tmp_path):
    """`photos/<label>/<number>.png`: twelve files of four labels; one is not an image."""
    torch.manual_seed(0)
    for number in range(12):
        file = tmp_path / "photos" / str(number % 4) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (1, 28, 28), dtype=torch.uint8)
        file.write_bytes(bytes(encode_png(pixels).numpy()))
    (tmp_path / "photos" / "2" / "06.png").write_bytes(b"no image")
    (tmp_path / "photos" / "2" / ".hidden").write_bytes(b"")
    return tmp_path / "photos"


def rows_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_gives_labels_and_predictions_and_a_bad_file_an_error_row(mnist, images):
    out = images / "predictions.csv"  # in the folder, but not an input
    found = run(mnist, [str(images)], out)
    rows = rows_of(out)
    assert [row["file"] for row in rows] == sorted(str(f) for f in images.rglob("[0-9]*.png"))
    assert all(row["actual"] == Path(row["file"]).parent.name for row in rows)
    (bad,) = [row for row in rows if row["status"] != "200"]
    assert bad["file"].endswith("06.png")
    assert (bad["status"], bad["error_type"], bad["predicted"]) == ("415", "InputError", "")
    assert "send JPEG or PNG" in bad["error_message"]
    assert (found.rows, found.failed, found.errors) == (12, 1, {"InputError": 1})
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert (found.judged, found.right, found.accuracy) == (12, right, right / 12)
    assert not (images / "predictions.csv.journal").exists()


def test_predictions_equal_the_handlers_for_every_batch_size(mnist, images, tmp_path):
    run(mnist, [str(images / "*" / "*.png")], tmp_path / "a.jsonl", batch_size=5, workers=0)
    run(mnist, [str(images)], tmp_path / "b.jsonl", batch_size=1, workers=2)
    both = [
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("a.jsonl", "b.jsonl")
    ]
    assert [row["file"] for row in both[0]] == [row["file"] for row in both[1]]
    for one, two in zip(*both, strict=True):
        assert one.get("predicted") == two.get("predicted")
        assert one.get("probability") == pytest.approx(two.get("probability"), abs=1e-5)
        assert ("answer" in one) == (one["status"] == 200)
    with load_model(mnist) as handler:
        (answer,) = handler.predict([(images / "1" / "05.png").read_bytes()])
    (row,) = [row for row in both[1] if row["file"].endswith("05.png")]
    assert row["answer"] == answer.json()


def test_a_csv_is_sent_by_column_name_and_keeps_its_columns(regression, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text(
        "id,s5,bmi,bp,progression\n007,4.5,25,90,150\nx,4.5,,90,1\ny,4.5,25,90,151.5\n"
    )
    found = run(regression, [str(table)], tmp_path / "out.parquet")
    read = pandas.read_parquet(tmp_path / "out.parquet")
    assert read["id"].tolist() == ["007", "x", "y"]
    assert read["row"].tolist() == [1, 2, 3]
    assert read["status"].tolist() == [200, 422, 200]
    assert read["predicted"][0] == read["predicted"][2]
    assert read["units"][0] == "progression one year after baseline"
    assert "'bmi' must be a number" in read["error_message"][1]
    off = (abs(read["predicted"][0] - 150) + abs(read["predicted"][2] - 151.5)) / 2
    assert found.mean_absolute_error == pytest.approx(off)
    with load_model(regression) as handler:
        (answer,) = handler.predict([b'{"bmi": 25, "bp": 90, "s5": 4.5}'])
    assert answer.json()["prediction"] == read["predicted"][0]


def test_a_table_accepts_the_same_numbers_as_http(regression, tmp_path):
    cells = ["25", "2_5", "٢٥", "nan", "", "9" * 5002, "0" * 5002, "1e999"]
    table = tmp_path / "rows.csv"
    table.write_text("s5,bmi,bp\n" + "".join(f"4.5,{cell},90\n" for cell in cells), "utf-8")
    run(regression, [str(table)], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["200", *["422"] * 5, "200", "422"]
    assert all("'bmi'" in row["error_message"] for row in rows if row["status"] == "422")


def test_a_json_lines_file_is_a_table(regression, tmp_path):
    lines = [
        {"s5": 4.5, "bmi": 25, "bp": 90, "progression": 150},
        {"s5": 4.5, "bmi": "25", "bp": 90, "note": ["x"]},
        {"s5": 4.5, "bp": 90},
    ]
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = run(regression, [str(table)], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["200", "200", "422"]
    assert "field 'bmi' is missing" in rows[2]["error_message"]
    assert rows[0]["predicted"] == rows[1]["predicted"]
    assert rows[1]["note"] == '["x"]'
    assert found.mean_absolute_error is not None


def test_every_line_of_a_text_file_is_an_input(simplenet, tmp_path):
    lines = [b"for x in y:", b"", b"It was a dark night.", b"\xff\xfe", b"return None\r"]
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")
    found = run(simplenet, [str(tmp_path / "texts.txt")], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["row"] for row in rows] == ["1", "3", "4", "5"]
    assert [row["status"] for row in rows] == ["200", "200", "400", "200"]
    assert [row["text"] for row in rows][::3] == ["for x in y:", "return None"]
    assert found.failed == 1


def test_the_label_column_of_a_csv_is_the_actual_value(simplenet, tmp_path):
    (tmp_path / "t.csv").write_text('text,label\n"a = 1\nb = 2",code\nIt rains.,prose\nNo.,poem\n')
    found = run(simplenet, [str(tmp_path / "t.csv")], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["actual"] for row in rows] == ["code", "prose", ""]
    assert rows[0]["text"] == "a = 1\nb = 2"
    assert found.judged == 2


def test_a_file_that_cannot_be_read_is_an_error_row(mnist, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = run(mnist, [str(tmp_path / "photos")], tmp_path / "out.csv")
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["status"], row["error_type"]) == ("", "FileNotFoundError")
    assert found.failed == 1


def test_a_finished_output_is_not_overwritten(mnist, images, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("precious")
    with pytest.raises(UsageError, match=r"exists already. Choose another --out"):
        run(mnist, [str(images)], out)
    assert out.read_text() == "precious"
    run(mnist, [str(images)], out, overwrite=True)
    assert len(rows_of(out)) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bmi,bp\n1,2\n", r"has the columns bmi, bp; this model needs bmi \+ bp \+ s5"),
        ("bmi,bp,s5\n1,2\n", r"row 1 \(line 2\) has 2 fields; the first line names 3"),
        ("bmi,bp,s5,status\n1,2,3,4\n", "names of output columns: status"),
        ("bmi,bmi\n1,2\n", "several columns named 'bmi'"),
        ("bmi;bp;s5\n25;90;4,6\n", "columns seem to be separated by ';'"),
        ("bmi,bp,s5\n", "has no rows"),
        ("bmi,bp,s5\n\u00e4,1,2\n".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_an_invalid_table_is_refused_with_the_reason(regression, tmp_path, content, message):
    table = tmp_path / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        run(regression, [str(table)], tmp_path / "out.csv")


def test_an_archive_is_found_by_path_file_or_model(project, mnist):
    for given in (str(mnist), "mnist-1.0", "mnist-1.0.mar", "mnist"):
        assert find_archive(project, given).name == "mnist-1.0.mar"
    assert find_archive(project, "mnist", "1.0") == mnist
    with pytest.raises(UsageError, match=r"no archive lenet5: .*mnist-1.0.mar"):
        find_archive(project, "lenet5")
    half = mnist.with_name("mnist-half-1.0.mar")
    shutil.copyfile(project.model_store / "mnist-1.0.mar", half)
    try:
        with pytest.raises(
            UsageError,
            match=r"holds several versions of mnist: name one of mnist-1.0, mnist-half-1.0",
        ):
            find_archive(project, "mnist")
        rename_model(half, "mnist-half")
        assert find_archive(project, "mnist") == mnist
        assert find_archive(project, "mnist-half") == half
    finally:
        half.unlink()
    with pytest.raises(UsageError, match=r"holds no version 3.0 of mnist: name one of mnist-1.0"):
        find_archive(project, "mnist", "3.0")


def rename_model(archive, name):
    """Write another model name into the archive's manifest."""
    with zipfile.ZipFile(archive) as content:
        members = {member: content.read(member) for member in content.namelist()}
    manifest = members["MAR-INF/MANIFEST.json"].replace(b'"mnist"', f'"{name}"'.encode())
    with zipfile.ZipFile(archive, "w") as content:
        for member, data in {**members, "MAR-INF/MANIFEST.json": manifest}.items():
            content.writestr(member, data)


def test_files_in_a_folder_that_is_not_a_label_are_counted_as_unlabelled(mnist, images, tmp_path):
    (images / "0").rename(images / "unsorted")
    found = run(mnist, [str(images)], tmp_path / "out.csv")
    assert (found.rows, found.judged, found.unlabelled) == (12, 9, 3)


def test_optional_columns_are_sent_if_they_are_not_empty(tmp_path):
    project = Project(tmp_path)
    folder = language_model(tmp_path / "hub")
    archive = pack(project, "gpt2", version="1.0", weights=str(folder)).archive
    (tmp_path / "t.csv").write_text("id,prompt,max_new_tokens,score\n1,the fox,3,\n2,a,,true\n")
    run(archive, [str(tmp_path / "t.csv")], tmp_path / "out.jsonl")
    one, two = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert one["completion_tokens"] == 3
    assert two["answer"]["logprobs"][0] is None  # scored; max_new_tokens was not sent


def test_only_line_feeds_end_a_line_of_a_csv(simplenet, tmp_path):
    cell = "It\u2028rained\x0b,\x85all\x0cday"
    (tmp_path / "t.csv").write_text(f'text,label\n"{cell}",prose\nNo.,prose\n', "utf-8")
    run(simplenet, [str(tmp_path / "t.csv")], tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["text"] for line in lines if line] == [cell, "No."]


def test_the_command_prints_counts_and_errors(project, mnist, images, monkeypatch):
    monkeypatch.chdir(project.root)
    app = typer.Typer()
    app.command()(command)
    arguments = ["mnist", str(images), "--out", "out/p.parquet"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert (printed["rows"], printed["failed"], printed["model"]) == (12, 1, "mnist")
    assert len(pandas.read_parquet("out/p.parquet")) == 12
    done = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert "of 12 correct" in done.stdout
    assert "1 failed: InputError" in done.stdout
    done = CliRunner().invoke(app, ["mnist", str(images), "--out", "p.xlsx"])
    assert "expected a file that ends in .csv, .parquet, .jsonl" in str(done.exception)
