"""Run a batch prediction; finished rows survive an interruption."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vestal.batch.inputs import InputContent, Inputs, find_inputs, prefetch_batches
from vestal.batch.journal import Journal
from vestal.batch.model import ModelInterface, load_model
from vestal.batch.output import check_format, prediction_columns, write_output
from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive, Response
from vestal.mar.manifest import batch_size_of, read_manifest, read_settings
from vestal_handlers.device import sha256_of

# Called with the number of finished, failed and all rows.
Progress = Callable[[int, int, int], object]


@dataclass(kw_only=True)
class Summary:
    """Result of a finished run.

    Attributes:
        rows: number of inputs; `before` of them were predicted by an interrupted run.
        failed: rows without a prediction; `errors` counts them by type.
        judged: rows with a known label; `right` of them were predicted correctly.
        unlabelled: files in a folder that is not one of the model's labels.
        mean_absolute_error: of a regressor, over the predicted rows with a known value.
        seconds: time for the rows of this run, without loading.
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

    def to_json(self) -> dict[str, Any]:
        """Return all attributes; times are rounded."""
        return {
            **vars(self),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second, 2),
        }


def run(
    archive: Path,
    inputs: Sequence[str],
    out: Path,
    *,
    batch_size: int | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda done, failed, total: None,
) -> Summary:
    """Predict many inputs and write a table; continue if a run was interrupted.

    Args:
        archive: a .mar file, or its unpacked folder.
        inputs: folders, globs and files; or one table; or one text file.
        out: .csv, .parquet or .jsonl. Until the end of the run, there is `<out>.journal` instead.
        batch_size: inputs per batch; None: batchSize of the archive's model-config.yaml.
        workers: number of threads that read files ahead; 0: a batch is read when it is needed.
        overwrite: replace an existing `out`.

    Raises:
        UsageError: no inputs, an `out` that exists or cannot be written, a table without the
            columns that the model needs, a journal of another run.
        VestalError: the archive does not load, another run is writing the same output, or this
            run was interrupted.
    """
    check_format(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already. Choose another --out, or pass --overwrite")
    manifest = read_manifest(archive)
    journal_file = out.with_name(f"{out.name}.journal")
    found = find_inputs(inputs, exclude=(out, journal_file))
    size = batch_size or batch_size_of(read_settings(archive, manifest))
    digests = {"archive": sha256_of(archive), "inputs": found.fingerprint}
    with Journal(journal_file, digests) as journal:
        summary = Summary(
            archive=str(archive),
            model=manifest.name,
            version=manifest.version,
            out=str(out),
            rows=len(found),
            before=len(journal.statuses),
        )
        read = partial(prefetch_batches, found, batch_size=size, threads=workers)
        try:
            model = _predict_all(archive, found, journal, summary, read, progress)
            table = partial(_table, found, journal, model)
            write_output(out, partial(table, complete=out.suffix == ".jsonl"))
            _evaluate(summary, table())
        except KeyboardInterrupt:
            raise VestalError(
                f"stopped after {len(journal.statuses):,} of {len(found):,} inputs; "
                "the same command continues from there"
            ) from None
        summary.unlabelled = sum(map(model.is_unlabelled, found.items))
        journal.remove()
    return summary


def _predict_all(
    archive: Path,
    inputs: Inputs,
    journal: Journal,
    summary: Summary,
    read: Callable[[Sequence[int]], AbstractContextManager[Iterator[list[InputContent]]]],
    progress: Progress,
) -> ModelInterface:
    remaining = [index for index in range(summary.rows) if index not in journal.statuses]
    failed = sum(status != 200 for status in journal.statuses.values())
    with read(remaining) as batches, load_model(archive) as handler:  # it reads while it loads
        model = ModelInterface(handler, inputs)
        start = time.perf_counter()
        progress(len(journal.statuses), failed, summary.rows)
        for batch in batches:
            rows = _journal_rows(handler, model, batch)
            journal.add(rows)
            failed += sum("error" in row for row in rows)
            progress(len(journal.statuses), failed, summary.rows)
        summary.seconds = time.perf_counter() - start
    summary.rows_per_second = len(remaining) / summary.seconds if remaining else 0.0
    return model


def _journal_rows(
    handler: LoadedArchive, model: ModelInterface, batch: Sequence[InputContent]
) -> list[dict[str, Any]]:
    """Predict a batch; return a row for each input, in order."""
    requests = [model.request(content) for content in batch if content.error is None]
    responses = iter(_predict(handler, requests))
    rows: list[dict[str, Any]] = []
    for content in batch:
        if content.error is None:
            rows.append({"index": content.index, **_outcome(next(responses))})
        else:
            error = dict(zip(("type", "message"), content.error, strict=True))
            rows.append({"index": content.index, "status": None, "error": error})
    return rows


def _predict(handler: LoadedArchive, requests: Sequence[Input]) -> list[Response]:
    responses = handler.predict(requests) if requests else []
    if len(requests) > 1 and all(response.status >= 500 for response in responses):
        # A handler that is not Vestal's fails the whole batch: find the input that causes it.
        return [response for request in requests for response in handler.predict([request])]
    return responses


def _outcome(response: Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = response.body.decode("utf-8", "replace")
    if response.status < 400:
        return {"status": response.status, "answer": value}
    details = value if isinstance(value, Mapping) else {"message": value}
    kind, message = details.get("type", "Error"), details.get("message", value)
    return {"status": response.status, "error": {"type": str(kind), "message": str(message)}}


def _table(
    inputs: Inputs, journal: Journal, model: ModelInterface, *, complete: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the output, in input order; `complete`: with the whole prediction."""
    for row in journal.rows():
        item = inputs.items[row["index"]]
        if "error" in row:
            outcome = {f"error_{key}": value for key, value in row["error"].items()}
        else:
            outcome = prediction_columns(row["answer"])
            outcome |= {"answer": row["answer"]} if complete else {}
        actual = model.actual(item)
        yield {**item.output_columns, "actual": actual, **outcome, "status": row["status"]}


def _evaluate(summary: Summary, rows: Iterator[dict[str, Any]]) -> None:
    """Compare predicted with actual values; a failed row with a label counts as wrong."""
    errors: Counter[str] = Counter()
    differences: list[float] = []
    for row in rows:
        actual, predicted = row["actual"], row.get("predicted")
        errors.update([row["error_type"]] if "error_type" in row else [])
        if isinstance(actual, str):
            summary.judged += 1
            summary.right += predicted == actual
        elif actual is not None and isinstance(predicted, float):
            differences.append(abs(predicted - actual))
    summary.errors, summary.failed = dict(errors.most_common()), errors.total()
    if summary.judged:
        summary.accuracy = summary.right / summary.judged
    if differences:
        summary.mean_absolute_error = sum(differences) / len(differences)
