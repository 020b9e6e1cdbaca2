"""Print the responses of `vestal run`."""

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
from vestal.inprocess.messages import Response
from vestal.inprocess.profiling import Operator

LONGEST = 4000  # characters of a body that are printed; --json prints all


def facts(batches: Sequence[Batch]) -> dict[str, Any]:
    """The result for --json: every response, and the times of every batch."""
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
            for sent, answer in zip(batch.requests, batch.responses, strict=True)
        ],
        "batches": [
            {"size": len(batch.requests), "seconds": batch.times and asdict(batch.times)}
            for batch in batches
        ],
    }


def show(batches: Sequence[Batch]) -> None:
    """Print each response: its status, the handler's headers and its body."""
    for batch in batches:
        for sent, answer in zip(batch.requests, batch.responses, strict=True):
            good = answer.status < 400
            by = "" if answer.reached else "  refused by TorchServe, before the handler"
            status = (str(answer.status), "bold green" if good else "bold red")
            # Text, because rich would interpret markup in a string from a handler.
            out.print(Text.assemble((sent.name, "bold"), "  ", status, (by, "red")))
            for name, value in answer.headers.items():
                out.print(Text(f"{name}: {value}", style="dim"), soft_wrap=True)
            out.print(Text(_readable(answer)), soft_wrap=True)
        if batch.times:
            out.print(Text(_timing(batch), style="dim"), soft_wrap=True)


def show_operators(operators: Sequence[Operator], trace: Path) -> None:
    """Print the time of each operator and the path of the trace."""
    table = Table(box=None, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for name in ("calls", "self ms", "total ms"):
        table.add_column(name, justify="right")
    for each in operators:
        table.add_row(
            Text(each.name), str(each.calls), f"{each.own * 1e3:.2f}", f"{each.total * 1e3:.2f}"
        )
    if operators:
        out.print(table)
    out.print(
        Text(f"Trace: {trace} (open it in chrome://tracing or ui.perfetto.dev)"), soft_wrap=True
    )


def _timing(batch: Batch) -> str:
    assert batch.times is not None
    steps = {name: value for name, value in asdict(batch.times).items() if name != "total"}
    times = [f"{name} {value * 1e3:.2f} ms" for name, value in steps.items() if value is not None]
    return ", ".join(
        [f"batch of {len(batch.requests)}", *times, f"total {batch.times.total * 1e3:.2f} ms"]
    )


def _body(answer: Response) -> dict[str, Any]:
    """The body as `json`, or else as `text`, or else as `base64`."""
    try:
        text = answer.body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(answer.body).decode()}
    try:
        return {"json": json.loads(text, parse_constant=_no_json)}
    except (ValueError, RecursionError):
        return {"text": text}


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is not valid JSON")


def _readable(answer: Response) -> str:
    body = _body(answer)
    if "base64" in body:
        return f"<{len(answer.body):,} bytes>"
    shown = json.dumps(body["json"], ensure_ascii=False) if "json" in body else body["text"]
    more = f" ... {len(shown) - LONGEST:,} more characters (--json prints all)"
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + more
