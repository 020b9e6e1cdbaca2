"""`vestal pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestal.cli.output import Json, err, out, print_json


def pack(
    model: Annotated[str, typer.Argument(help="A model folder's name.")],
    version: Annotated[str, typer.Option(help="Of the archive, such as 1.0.")],
    weights: Annotated[
        Path | None, typer.Option(help="A training's folder; by default the newest run.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace this version if its content differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack weights, handler, labels and a sample into model_store/MODEL-VERSION.mar."""
    with err.status("Packing"):
        from vestal.archive.pack import pack as pack_archive
        from vestal.project import Project
        from vestal.runs import latest_run

        project = Project.here()
        folder = weights or latest_run(project, model)
        packed = pack_archive(project, model, version=version, weights=folder, force=force)
    if as_json:
        facts = {"archive": str(packed.archive), "sha256": packed.sha256, "new": packed.new}
        print_json({**facts, "weights": str(folder)})
        return
    size = packed.archive.stat().st_size / 1e6
    state = "packed" if packed.new else "unchanged:"
    out.print(f"{state} {packed.archive} ({size:.1f} MB, sha256 {packed.sha256[:12]})")
    out.print(f"weights: {folder}")
    out.print(f"next: vestal serve --models {model}={packed.archive.name}", style="dim")
