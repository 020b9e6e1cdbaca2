"""Scores many inputs by an archive, in batches; what was done survives whatever happens."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vestal.batch.bodies import Asking
from vestal.batch.columns import columns_of, jsonl_of
from vestal.batch.inputs import Items, Read, find_inputs
from vestal.batch.journal import Journal
from vestal.batch.loading import loaded
from vestal.batch.reading import reading
from vestal.batch.tables import check_format, write
from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive, Response
from vestal.mar.manifest import batch_size_of, read_manifest, read_settings
from vestal_handlers.device import sha256_of

# Called with the number of rows done, of those failed, and of all.
Progress = Callable[[int, int, int], object]


@dataclass(kw_only=True)
class Summary:
    """A finished run.

    Attributes:
        rows: inputs; `before` of them were done by a run that was interrupted.
        failed: rows without an answer; `errors` counts them by type.
        judged: rows whose truth is known; `right` of them were told right. A failed one is wrong.
        unlabelled: files in folders that are none of the model's labels: nothing is known of them.
        mean_absolute_error: of a regressor, over the judged rows that have an answer.
        seconds: of this run's own rows, without loading.
    """

    archive: str
    model: str
    version: str
    out: str
    rows: int
    before: int
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    judged: int = 0
    right: int = 0
    unlabelled: int = 0
    accuracy: float | None = None
    mean_absolute_error: float | None = None
    seconds: float = 0.0
    rows_per_second: float = 0.0


def run(
    archive: Path,
    given: Sequence[str],
    out: Path,
    *,
    batch_size: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda done, failed, total: None,
) -> Summary:
    """Writes a table of inputs, answers and errors; goes on where an interrupted run was.

    Args:
        archive: a .mar, or its unpacked folder.
        given: a folder, a glob, files; one CSV; one text file, a text a line.
        out: .csv, .parquet or .jsonl. While it runs there is `<out>.journal` in its place.
        batch_size: None: the archive's own (batchSize of its model-config.yaml).
        workers: threads that read files ahead; 0: a batch is read when it is needed.
        overwrite: replace a finished `out`.

    Raises:
        UsageError: no inputs, an `out` that is there already or cannot be written, a table without
            the columns that the model needs, a journal of another run.
        VestalError: the archive does not load, another run writes the same output, or this one
            was stopped.
    """
    check_format(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already. Choose another --out, or pass --overwrite")
    manifest = read_manifest(archive)
    journal_file = out.with_name(f"{out.name}.journal")
    items = find_inputs(given, leave_out=(out, journal_file))
    size = batch_size or batch_size_of(read_settings(archive, manifest))
    about = {"archive": sha256_of(archive), "inputs": items.fingerprint}
    with Journal(journal_file, about) as journal:
        found = Summary(
            archive=str(archive),
            model=manifest.name,
            version=manifest.version,
            out=str(out),
            rows=len(items),
            before=len(journal.done),
        )
        try:
            _run(
                archive,
                items,
                journal,
                found,
                out,
                partial(reading, items, batch_size=size, threads=workers),
                progress,
            )
        except KeyboardInterrupt:
            done = len(journal.done)
            raise VestalError(
                f"stopped after {done:,} of {len(items):,}: the same command goes on from there"
            ) from None
        journal.remove()
    return found


def _run(
    archive: Path,
    items: Items,
    journal: Journal,
    found: Summary,
    out: Path,
    read: Callable[[Sequence[int]], AbstractContextManager[Iterator[list[Read]]]],
    progress: Progress,
) -> None:
    todo = [index for index in range(len(items)) if index not in journal.done]
    failed = sum(status != 200 for status in journal.done.values())
    with read(todo) as batches, loaded(archive) as handler:
        asking = Asking(handler, items)
        begin = time.perf_counter()
        progress(len(journal.done), failed, len(items))
        for reads in batches:
            rows = _rows(handler, asking, reads)
            journal.add(rows)
            failed += sum("error" in row for row in rows)
            progress(len(journal.done), failed, len(items))
        found.seconds = time.perf_counter() - begin
    answered = len(items) - found.before
    found.rows_per_second = answered / found.seconds if answered else 0.0
    write(out, partial(_table, items, journal, asking, whole=out.suffix == ".jsonl"))
    _judge(found, _table(items, journal, asking, whole=False))
    found.unlabelled = sum(map(asking.is_unlabelled, items.items))


def _rows(handler: LoadedArchive, asking: Asking, reads: Sequence[Read]) -> list[dict[str, Any]]:
    """A journal's row for every input of a batch, in order."""
    good = [read for read in reads if read.error is None]
    answers = iter(_ask(handler, [asking.input(read) for read in good]))
    rows: list[dict[str, Any]] = []
    for read in reads:
        if read.error is None:
            rows.append({"index": read.index, **_fate(next(answers))})
        else:
            error = dict(zip(("type", "message"), read.error, strict=True))
            rows.append({"index": read.index, "status": None, "error": error})
    return rows


def _ask(handler: LoadedArchive, inputs: Sequence[Input]) -> list[Response]:
    answers = handler.predict(inputs) if inputs else []
    if len(inputs) > 1 and all(answer.status >= 500 for answer in answers):
        # Handlers of others fail a batch for one of it: alone, only that one fails.
        return [answer for one in inputs for answer in handler.predict([one])]
    return answers


def _fate(answer: Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        value = answer.body.decode("utf-8", "replace")
    if answer.status < 400:
        return {"status": answer.status, "answer": value}
    told = value if isinstance(value, Mapping) else {"message": value}
    error = {"type": str(told.get("type", "Error")), "message": str(told.get("message", value))}
    return {"status": answer.status, "error": error}


def _table(
    items: Items, journal: Journal, asking: Asking, *, whole: bool
) -> Iterator[dict[str, Any]]:
    """The output's rows, in the order of the inputs; `whole`: with all of each answer."""
    for row in journal.rows():
        item = items.items[row["index"]]
        said: dict[str, Any] = {}
        if "error" in row:
            said = {f"error_{key}": value for key, value in row["error"].items()}
        else:
            said = jsonl_of(row["answer"]) if whole else columns_of(row["answer"])
        yield {**item.shown, "actual": asking.actual(item), **said, "status": row["status"]}


def _judge(found: Summary, rows: Iterator[dict[str, Any]]) -> None:
    errors: Counter[str] = Counter()
    off: list[float] = []
    for row in rows:
        actual, predicted = row["actual"], row.get("predicted")
        errors.update([row["error_type"]] if "error_type" in row else [])
        if isinstance(actual, str):
            found.judged += 1
            found.right += predicted == actual
        elif actual is not None and isinstance(predicted, float):
            off.append(abs(predicted - actual))
    found.errors, found.failed = dict(errors.most_common()), errors.total()
    if found.judged:
        found.accuracy = found.right / found.judged
    if off:
        found.mean_absolute_error = sum(off) / len(off)


def to_json(found: Summary) -> dict[str, Any]:
    """All of it, rounded where it is a time."""
    facts: dict[str, Any] = json.loads(json.dumps(vars(found)))
    return {
        **facts,
        "seconds": round(found.seconds, 3),
        "rows_per_second": round(found.rows_per_second, 2),
    }
