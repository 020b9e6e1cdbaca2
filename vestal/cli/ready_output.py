"""What `vestal serve` prints when it is ready."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.cli.output import out
from vestal.errors import VestalError

if TYPE_CHECKING:
    from vestal.mar.sample import Sample
    from vestal.project import ReadyFile

SHORT = 200  # characters of a sample that is printed completely


def print_ready(ready: ReadyFile, root: Path, sample: Sample | None, how_to_stop: str) -> None:
    """Print what is served, the addresses, and commands that send a request.

    Args:
        sample: the sample of the first model, for these commands.
    """
    served = [
        f"{model['name']} {model['version']}{' (default)' if model['default'] else ''}"
        for model in ready.models
    ]
    _say(f"Ready: {', '.join(served) or 'no model is served'}")
    _say(f"  inference   {ready.inference}")
    _say(f"  management  {ready.management}")
    _say(f"  metrics     {ready.metrics}")
    if ready.keeper is not None:
        _say(f"  keeper      {ready.keeper}/ready (`vestal status` shows more)")
    if ready.gateway is not None:
        _say(f"  gateway     {ready.gateway} (for callers on other machines)")
    if ready.key_file is not None:
        _say(f"  health      {ready.inference}/api-description (no token; /ping answers 400)")
    if ready.models:
        name = ready.models[0]["name"]
        ours, for_curl = inputs_for(sample)
        _say("Send a request from another terminal in this folder:")
        _say(f"  vestal predict {name} {ours}")
        _say(f"  curl {_authorization(ready, root)}{for_curl} {ready.inference}/predictions/{name}")
    _say(how_to_stop)


def sample_of(ready: ReadyFile) -> Sample | None:
    """Return the packed sample of the first served model, if its archive has one."""
    from vestal.mar.sample import read_sample
    from vestal.mar.store import find_stored

    if not ready.models or ready.model_store is None:
        return None
    first = ready.models[0]
    try:
        archive = find_stored(Path(ready.model_store), first["name"], first["version"])
        return read_sample(archive)
    except VestalError:
        return None


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def inputs_for(sample: Sample | None) -> tuple[str, str]:
    """Arguments for `vestal predict NAME` and `curl`: the model's own sample, if it is short."""
    kind = sample.content_type if sample else ""
    if kind.startswith("image/"):
        return "IMAGE", "-T IMAGE"
    file = f"FILE{Path(sample.name).suffix}" if sample else "FILE"
    if sample is None or not kind.startswith(("text/", "application/json")):
        return file, f"-T {file}"
    text = sample.input.decode("utf-8", "replace").strip()
    header = f"-H {shlex.quote(f'Content-Type: {kind}')}"
    if len(text) > SHORT:
        return "--text TEXT" if kind.startswith("text/") else file, f"{header} -T {file}"
    body = f"{header} --data-raw {shlex.quote(text)}"
    if kind.startswith("text/"):
        return f"--text {shlex.quote(text)}", body
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if isinstance(row, dict) and row and all(map(_is_number, row.values())):
        return f"--row {','.join(f'{name}={value}' for name, value in row.items())}", body
    return file, body


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _authorization(ready: ReadyFile, root: Path) -> str:
    """A header that reads the token from its file: it changes at every start."""
    if ready.key_file is None:
        return ""
    key_file = Path(ready.key_file)
    if key_file.is_relative_to(root):
        key_file = key_file.relative_to(root)
    read = f"import json; print(json.load(open('{key_file}'))['inference']['key'])"
    return f'-H "Authorization: Bearer $(python3 -c "{read}")" '
