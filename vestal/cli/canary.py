"""`vestal canary`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestal.cli.canary_output import follow, print_status, raise_unless_promoted
from vestal.cli.changing import model_store, warn_about_file
from vestal.cli.output import Json, print_json
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.fleet.canary.judging import Rules
    from vestal.fleet.canary.requests import CanaryRequest, Command
    from vestal.gateway.settings import Sticky
    from vestal.project import Project


def canary(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a served model.")],
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]",
            help="Version in the model store that should replace the default version. Default: "
            "show the canary of the model.",
        ),
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            metavar="N,N,...", help="Percentages of the requests, in order. The last one is 100."
        ),
    ] = "1,10,50,100",
    every: Annotated[
        str, typer.Option(metavar="DURATION", help="Shortest time of a step, such as 60s or 10m.")
    ] = "60s",
    max_error_rate: Annotated[
        str,
        typer.Option(
            metavar="RATE", help="Highest fraction of responses with 5xx, such as 0.5% or 0.005."
        ),
    ] = "0.5%",
    max_p99_ratio: Annotated[
        str,
        typer.Option(
            metavar="RATIO",
            help="Highest ratio of its p99 response time to that of the default version; `none` "
            "compares no times.",
        ),
    ] = "1.2",
    sticky: Annotated[
        str | None,
        typer.Option(
            metavar="header:NAME|cookie:NAME",
            help="Header or cookie that identifies a user, whose requests all go to the same "
            "version. Default: each request is assigned at random.",
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show the canary of the model. This is the default.")
    ] = False,
    pause: Annotated[
        bool,
        typer.Option("--pause", help="Stay at the present step. The canary is still watched."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a paused canary.")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give all requests to the default version again.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Watch the canary until it ends.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Replace a model's default version step by step, judged by its requests.

    The version gets the next percentage when enough requests have proved that
    its error rate and its p99 are below their bounds. It loses all of them when
    they have proved the opposite. The keeper of the server does the work;
    Ctrl-C only ends the watching.
    """
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    project = Project.here()
    flags = {"status": status, "pause": pause, "resume": resume, "abort": abort}
    chosen = [name for name, is_set in flags.items() if is_set]
    if len(chosen) > 1 or (chosen and version is not None):
        given = [
            *([f"the version {version}"] if version else []),
            *(f"--{name}" for name in chosen),
        ]
        raise UsageError(f"{' and '.join(given)} exclude each other; pass one of them")
    if version is None:
        client = KeeperClient(project)
        command: Command | None = "pause" if pause else "resume" if resume else None
        command = "abort" if abort else command
        found = client.change_canary(model, command) if command else client.canary(model)
        print_status(found, as_json)
        if command == "abort":
            warn_about_file(project, client.desired()[1])
        return
    rules, user = _rules(steps, every, max_error_rate, max_p99_ratio), _sticky(sticky)
    client = KeeperClient(project)
    started = client.start_canary(_request(project, model, version, rules, user))
    if not wait:
        print_status(started, as_json)
        return
    ended = follow(client, started)
    if as_json:
        print_json(ended.model_dump(mode="json"))
    raise_unless_promoted(ended)
    warn_about_file(project, client.desired()[1])


def _request(
    project: Project, model: str, version: str, rules: Rules, sticky: Sticky | None
) -> CanaryRequest:
    """Find the archive of the version. Raises UsageError if the store has none."""
    from vestal.fleet.archive_store import ArchiveStore
    from vestal.fleet.canary.requests import CanaryRequest
    from vestal.fleet.revisions import user_name
    from vestal.mar.index import sha256_of

    archive = ArchiveStore(model_store(project)).by_version(model, version).archive
    return CanaryRequest(
        model=model,
        version=version,
        archive=archive.name,
        sha256=sha256_of(archive),
        rules=rules,
        sticky=sticky,
        user=user_name(),
    )


def _rules(steps: str, every: str, max_error_rate: str, max_p99_ratio: str) -> Rules:
    """Parse the options. Raises UsageError."""
    from vestal.fleet.canary.judging import Rules
    from vestal.fleet.serving_values import Fraction, Ratio, TimeLimit

    rate = _parse("--max-error-rate", max_error_rate, Fraction)
    if not 0 < rate < 1:
        raise UsageError(
            f"--max-error-rate is {max_error_rate}; expected more than 0% and less than 100%. No "
            "number of requests proves a rate of 0"
        )
    ratio = None if max_p99_ratio == "none" else _parse("--max-p99-ratio", max_p99_ratio, Ratio)
    return Rules(
        steps=_parse_steps(steps, compared=ratio is not None),
        every=_parse("--every", every, TimeLimit),
        max_error_rate=rate,
        max_p99_ratio=ratio,
    )


def _parse_steps(text: str, *, compared: bool) -> tuple[float, ...]:
    try:
        steps = tuple(float(part) for part in text.split(","))
    except ValueError:
        steps = ()
    ascending = all(low < high for low, high in pairwise((0.0, *steps)))
    if not ascending or steps[-1:] != (100,):
        raise UsageError(
            f"--steps is {text!r}; expected increasing percentages of which the last one is 100, "
            "such as 1,10,50,100"
        )
    if compared and len(steps) == 1:
        raise UsageError(
            "--steps is 100: at 100 % there is no other version to compare the p99 with. Add a "
            "smaller step (--steps 10,100) or pass --max-p99-ratio none"
        )
    return steps


def _parse(option: str, text: str, kind: Any) -> float:
    """Parse a value in the notation of serving.yaml. Raises UsageError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    try:
        parsed: float = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        what = error.errors()[0]["ctx"]["what"]
        raise UsageError(f"{option} is {text!r}; expected {what}") from None
    return parsed


def _sticky(text: str | None) -> Sticky | None:
    """Parse `header:x-user` or `cookie:user`. Raises UsageError."""
    from vestal.gateway.settings import Sticky

    if text is None:
        return None
    kind, _, name = text.partition(":")
    if kind not in ("header", "cookie") or not name.strip():
        raise UsageError(f"--sticky is {text!r}; expected header:NAME or cookie:NAME")
    return Sticky(header=name) if kind == "header" else Sticky(cookie=name)
