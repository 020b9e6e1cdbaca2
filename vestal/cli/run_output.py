"""How `vestal run` shows answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vestal.cli.output import out
from vestal.inprocess.frontend import Batch
from vestal.inprocess.messages import Answer
from vestal.inprocess.profiling import Operator

LONGEST = 4000  # characters of a body on the screen; --json has all


def facts(batches: Sequence[Batch]) -> dict[str, Any]:
    """For --json: every answer, and the times of every batch."""
    return {
        "answers": [
            {
                "input": sent.name,
                "batch": number,
                "status": answer.status,
                "reached_handler": answer.reached,
                "headers": answer.headers,
                **_body(answer),
            }
            for number, batch in enumerate(batches)
            for sent, answer in zip(batch.sent, batch.answers, strict=True)
        ],
        "batches": [
            {"size": len(batch.sent), "seconds": batch.times and asdict(batch.times)}
            for batch in batches
        ],
    }


def show(batches: Sequence[Batch]) -> None:
    """Each answer with its status line, the handler's headers and its body."""
    for batch in batches:
        for sent, answer in zip(batch.sent, batch.answers, strict=True):
            good = answer.status < 400
            by = "" if answer.reached else "  refused by TorchServe, before the handler"
            status = (str(answer.status), "bold green" if good else "bold red")
            # A Text, never a string: what a handler says is no markup.
            out.print(Text.assemble((sent.name, "bold"), "  ", status, (by, "red")))
            for name, value in answer.headers.items():
                out.print(Text(f"{name}: {value}", style="dim"), soft_wrap=True)
            out.print(Text(_readable(answer)), soft_wrap=True)
        if batch.times:
            out.print(Text(_timing(batch), style="dim"), soft_wrap=True)


def show_operators(operators: Sequence[Operator], trace: Path) -> None:
    """What took the time, and where the whole trace is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for name in ("calls", "own ms", "total ms"):
        table.add_column(name, justify="right")
    for each in operators:
        table.add_row(
            Text(each.name), str(each.calls), f"{each.own * 1e3:.2f}", f"{each.total * 1e3:.2f}"
        )
    if operators:
        out.print(table)
    out.print(Text(f"trace: {trace} (chrome://tracing or ui.perfetto.dev)"), soft_wrap=True)


def _timing(batch: Batch) -> str:
    assert batch.times is not None
    steps = {name: value for name, value in asdict(batch.times).items() if name != "total"}
    said = [f"{name} {value * 1e3:.2f} ms" for name, value in steps.items() if value is not None]
    return ", ".join(
        [f"batch of {len(batch.sent)}", *said, f"in all {batch.times.total * 1e3:.2f} ms"]
    )


def _body(answer: Answer) -> dict[str, Any]:
    """`json` where it is JSON, else `text`, else `base64`."""
    try:
        text = answer.body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(answer.body).decode()}
    try:
        return {"json": json.loads(text, parse_constant=_no_json)}
    except (ValueError, RecursionError):
        return {"text": text}


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _readable(answer: Answer) -> str:
    body = _body(answer)
    if "base64" in body:
        return f"<{len(answer.body):,} bytes>"
    shown = json.dumps(body["json"], ensure_ascii=False) if "json" in body else body["text"]
    more = f" ... {len(shown) - LONGEST:,} characters more (--json has them)"
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + more
