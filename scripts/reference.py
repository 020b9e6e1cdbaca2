"""Generates the reference pages of the documentation site from the code, for mkdocs-gen-files."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import mkdocs_gen_files
import typer
import yaml
from typer.cli import get_docs_for_click

from vestal.cli.app import app
from vestal.fleet.serving_schema import (
    CanarySection,
    GatewaySection,
    ModelSection,
    ProbeSection,
    Section,
    ServingSection,
    ShadowSection,
    StickySection,
    TlsSection,
    VersionSection,
    WorkersSection,
)
from vestal.mar.findings import CODES
from vestal_handlers.base import BatchHandler
from vestal_handlers.options import Options
from vestal_handlers.tasks.image_classifier import ImageClassifier
from vestal_handlers.tasks.image_embedder import ImageEmbedder
from vestal_handlers.tasks.mask_filler import MaskFiller
from vestal_handlers.tasks.question_answerer import QuestionAnswerer
from vestal_handlers.tasks.regressor import Regressor
from vestal_handlers.tasks.sequence_classifier import SequenceClassifier
from vestal_handlers.tasks.text_classifier import TextClassifier
from vestal_handlers.tasks.text_embedder import TextEmbedder
from vestal_handlers.tasks.text_generator import TextGenerator
from vestal_handlers.tasks.text_to_text import TextToText
from vestal_handlers.tasks.token_classifier import TokenClassifier
from vestal_handlers.tasks.zero_shot_classifier import ZeroShotClassifier

ROOT = Path(__file__).parents[1]
TASKS: Sequence[type[BatchHandler]] = (
    *(ImageClassifier, TextClassifier, Regressor, TextGenerator),
    *(SequenceClassifier, TokenClassifier, ZeroShotClassifier, MaskFiller, QuestionAnswerer),
    *(TextEmbedder, TextToText, ImageEmbedder),
)


def write(name: str, text: str) -> None:
    with mkdocs_gen_files.open(f"reference/{name}.md", "w") as page:
        page.write(text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def commands() -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="vestal")
    return html.unescape(text).replace("# `vestal`", "# Commands", 1)


def meanings(kind: type[Any]) -> dict[str, str]:
    """The meaning of each attribute, from the `Attributes:` of the class and its bases."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        _, _, section = (base.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(
            r"^ +(\w+): (.*?)(?=\n +\w+: |\n\n|\s*\Z)", section, re.DOTALL | re.MULTILINE
        ):
            found.setdefault(name, " ".join(text.split()))
    return found


def option_rows(kind: type[Any], without: frozenset[str] = frozenset()) -> Iterator[list[str]]:
    hints, meaning = get_type_hints(kind), meanings(kind)
    for each in dataclasses.fields(kind):
        if each.name in without:
            continue
        hint = hints[each.name]
        named = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        named = named.replace(" | ", "` or `")
        required = each.default is dataclasses.MISSING
        if required and each.default_factory is not dataclasses.MISSING:
            default = repr(each.default_factory())
        else:
            default = "required" if required else f"`{each.default!r}`"
        bounds = [
            f"{words} {each.metadata[key]:,}"
            for key, words in (("at_least", "at least"), ("at_most", "at most"))
            if each.metadata.get(key) is not None
        ]
        yield [
            f"`{each.name}`",
            f"`{named}`",
            default,
            "; ".join([meaning.get(each.name, "").removesuffix("."), *bounds]),
        ]


def options() -> str:
    lines = [
        "# Options",
        "",
        "Set under `handler:` in model-config.yaml. An unknown name or an invalid value ends the",
        "load, and the log names the option.",
        "",
    ]
    header = ("option", "type", "default", "meaning")
    lines += ["## All handlers", "", *table(header, option_rows(Options))]
    common = frozenset(each.name for each in dataclasses.fields(Options))
    for task in TASKS:
        rows = list(option_rows(task.options_type, common))
        if rows:
            lines += [f"## {task.__name__}", "", *table(header, rows)]
    return "\n".join(lines)


def metrics() -> str:
    declared = yaml.safe_load((ROOT / "vestal/configuration/metrics.yaml").read_text("utf-8"))
    lines = ["# Metrics", "", "What `/metrics` of the metrics address contains.", ""]
    for section, title in (
        ("model_metrics", "Handlers, and TorchServe's workers"),
        ("ts_metrics", "TorchServe's frontend"),
    ):
        rows = [
            (f"`{each['name']}`", kind, each["unit"], ", ".join(each["dimensions"]))
            for kind, group in declared[section].items()
            for each in group
        ]
        lines += [f"## {title}", "", *table(("metric", "kind", "unit", "labels"), rows)]
    return "\n".join(lines)


def configuration() -> str:
    text = (ROOT / "config.properties").read_text("utf-8")
    return "\n".join(
        [
            "# Configuration",
            "",
            "TorchServe's settings in Vestal's config.properties, each with its reason. A",
            "project's own file needs only the settings that it changes: see",
            "[the guide](../guides/serve.md#settings).",
            "",
            "```properties",
            text.rstrip(),
            "```",
            "",
        ]
    )


def key_rows(section: type[Section]) -> Iterator[list[str]]:
    for name, key in section.model_fields.items():
        # A default that depends on something else is described in words.
        meaning, _, default = (key.description or "").removesuffix(".").partition(". Default: ")
        if key.is_required():
            default = "required"
        elif key.default not in (None, ()):
            is_flag = isinstance(key.default, bool)
            default = f"`{str(key.default).lower() if is_flag else key.default}`"
        yield [f"`{name}`", default, meaning]


def serving_yaml() -> str:
    example = (ROOT / "docs/examples/serving.yaml").read_text("utf-8")
    header = ("key", "default", "meaning")
    lines = [
        "# serving.yaml",
        "",
        "The models that should run. Errors name the file, the line and the key. Unknown keys,",
        "keys that appear twice and aliases are errors. A duration is `30s`, `10m`, `2h`, `1d` or",
        "a number of seconds.",
        "",
        "```yaml",
        example.rstrip(),
        "```",
        "",
    ]
    lines += ["## The file", "", *table(header, key_rows(ServingSection))]
    for title, section in (
        ("A model", ModelSection),
        ("A version in `also`", VersionSection),
        ("`workers`", WorkersSection),
        ("A `canary`", CanarySection),
        ("`sticky`", StickySection),
        ("A `shadow`", ShadowSection),
        ("A `probe`", ProbeSection),
        ("The `gateway`", GatewaySection),
        ("`tls`", TlsSection),
    ):
        lines += [f"## {title}", "", *table(header, key_rows(section))]
    return "\n".join(lines)


def errors() -> str:
    rows = ((f"`{code}`", meaning) for code, meaning in CODES.items())
    return "\n".join(
        [
            "# Errors",
            "",
            "## Responses of handlers",
            "",
            "See [errors of a request](../concepts/requests.md#errors).",
            "",
            "## Findings of `vestal check`",
            "",
            *table(("code", "meaning"), rows),
            "::: vestal.client.errors",
            "    options:",
            "      filters: ['!^_', '!ErrorDetails']",
            "",
        ]
    )


def exported(title: str, introduction: str, names: Iterable[str]) -> str:
    return "\n".join([f"# {title}", "", introduction, "", *(f"::: {name}\n" for name in names)])


write("cli", commands())
write("options", options())
write("metrics", metrics())
write("configuration", configuration())
write("serving-yaml", serving_yaml())
write("errors", errors())
write(
    "client",
    exported(
        "Client",
        "`from vestal import Client, AsyncClient`. [The guide](../guides/call.md) has examples.",
        (
            "vestal.client.client.Client",
            "vestal.client.async_client.AsyncClient",
            "vestal.client.prediction.Prediction",
        ),
    ),
)
write(
    "handlers",
    exported(
        "Handlers",
        "`from vestal_handlers import BatchHandler, InputError, ...`. "
        "[Write a handler](../guides/write-a-handler.md) is the guide.",
        (
            "vestal_handlers.base.BatchHandler",
            "vestal_handlers.task_hooks",
            "vestal_handlers.errors.InputError",
            "vestal_handlers.images.decoding",
            "vestal.inprocess.loaded_archive.LoadedArchive",
        ),
    ),
)
