"""Initial data of a new model: a small real data set, or the user's own file."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from shlex import quote
from typing import Any

from vestal.errors import UsageError, VestalError
from vestal.files.table_columns import Choice, choose
from vestal.files.tables import Table, read_table
from vestal.training import tables

# Label -> modules of Python's standard library whose documentation provides the sentences.
ABOUT = {
    "files": ("os", "shutil", "pathlib", "tempfile", "zipfile", "tarfile"),
    "network": ("socket", "ssl", "http.client", "smtplib", "ftplib", "ipaddress", "imaplib"),
    "numbers": ("math", "cmath", "statistics", "random", "decimal", "fractions"),
}
SENTENCES = 250  # for each label
TEXT_CHARS = 80_000
CONTEXT = 256  # as in the template of text_generator
FEATURES = ("bmi", "bp", "s5")
TARGET, UNITS = "progression", "progression one year after baseline"


def add_data(task: str, folder: Path, data: Path | None, choice: Choice) -> dict[str, str]:
    """Fill the data folder of a model and return the values for its templates.

    Args:
        choice: columns of a regressor's table.

    Raises:
        UsageError: a missing file or column.
        VestalError: data that cannot be trained on; the message names line and column.
    """
    if data is not None and not data.is_file():
        raise UsageError(f"no file {data}")
    folder.mkdir()
    if task == "regressor":
        return _table(folder, data, choice)
    if task == "text_classifier":
        file = _copy(data, folder / "texts") if data else _sentences(folder)
        tables.labelled_texts(data, file=file)
    else:
        file = _copy(data, folder / "text") if data else _reference(folder)
        tables.plain_text(data, file=file, context=CONTEXT)
    return {"file": file.name}


def _copy(data: Path, target: Path) -> Path:
    return Path(shutil.copyfile(data, f"{target}{data.suffix.lower()}"))


def _table(folder: Path, data: Path | None, choice: Choice) -> dict[str, str]:
    """Copy a table; return its features with mean and standard deviation of the training rows."""
    source = data or _diabetes(folder)
    columns = choose(read_table(source), choice)
    target = columns.target
    train = tables.split_rows(columns.table, columns.features, target).train
    assert isinstance(train, tables.Rows)
    moments = dict(
        zip(columns.features, zip(*tables.moments(train.rows), strict=True), strict=True)
    )
    # An encoded value that is in no training row gives a constant column.
    moments = {n: m for n, m in moments.items() if m[1] > 0 or n not in columns.encoded}
    ((mean, spread),) = zip(*tables.moments(train.targets[:, None]), strict=True)
    for name, (_, deviation) in [*moments.items(), (target, (mean, spread))]:
        if not deviation > 0:
            advice = (
                "choose another --target"
                if name == target
                else f"leave it out with --ignore {quote(name)}"
            )
            raise VestalError(
                f"{source}: column {name} has the same value in every row of the training split; "
                f"{advice}"
            )
    if columns.encoded:
        file = _write_table(folder, columns.table)
    else:
        file = _copy(data, folder / "rows") if data else source
    units = "" if data else f"\n  units: {UNITS}"
    return {
        "file": file.name,
        "moments": "\n".join(
            f"    {_quoted(name)}: ({mean:.6g}, {deviation:.6g}),"
            for name, (mean, deviation) in moments.items()
        ),
        "count": str(len(moments)),
        "target": _quoted(target),
        "target_mean": f"{mean:.6g}",
        "target_deviation": f"{spread:.6g}",
        "yaml_features": "\n".join(f"    - {_quoted(name)}" for name in moments),
        "yaml_target": f"{_quoted(target)}{units}",
    }


def _quoted(name: str) -> str:
    """A string literal that is valid in Python, JSON and YAML."""
    return json.dumps(name, ensure_ascii=False)


def _write_table(folder: Path, table: Table) -> Path:
    rows = [[row.values[name] for name in table.columns] for row in table.rows]
    return _write(folder / "rows.csv", table.columns, rows)


def _diabetes(folder: Path) -> Path:
    """Write scikit-learn's diabetes data: 442 patients (Efron et al., 2004)."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    columns = [bunch.feature_names.index(name) for name in FEATURES]
    rows = [
        (*(f"{value:g}" for value in row[columns]), f"{target:g}")
        for row, target in zip(bunch.data, bunch.target, strict=True)
    ]
    return _write(folder / "rows.csv", (*FEATURES, TARGET), rows)


def _sentences(folder: Path) -> Path:
    """Write sentences of Python's documentation, labelled by subject."""
    sentences = {label: _documentation(modules) for label, modules in ABOUT.items()}
    count = Counter(text for texts in sentences.values() for text in texts)
    examples = []
    for label, texts in sentences.items():
        unique = sorted(text for text in texts if count[text] == 1)
        sample = random.Random(0).sample(unique, min(SENTENCES, len(unique)))
        examples += [(text, label) for text in sample]
    return _write(folder / "texts.csv", ("text", "label"), examples)


def _documentation(modules: Sequence[str]) -> set[str]:
    return {
        sentence
        for name in modules
        for documented in _documented(name)
        for paragraph in inspect.cleandoc(documented).split("\n\n")
        if 40 <= len(sentence := " ".join(paragraph.split())) <= 300
        and sentence.endswith(".")
        and ">>>" not in sentence
    }


def _documented(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    root = name.partition(".")[0]
    for attribute, value in vars(module).items():
        own = str(getattr(value, "__module__", "")).lstrip("_").startswith((root, "posix"))
        if attribute.startswith("_") or not own:
            continue
        members = vars(value).values() if inspect.isclass(value) else ()
        for item in (value, *members):
            if isinstance(item.__doc__, str) and (inspect.isclass(item) or inspect.isroutine(item)):
                yield item.__doc__


def _reference(folder: Path) -> Path:
    """Write the beginning of Python's reference, from `pydoc_data.topics`."""
    text = ""
    for name in sorted(topics):
        if len(text) < TEXT_CHARS:
            text += topics[name].strip() + "\n\n"
    file = folder / "text.txt"
    file.write_text(text, "utf-8")
    return file


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([header, *rows])
    return file
