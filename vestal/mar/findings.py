"""Findings of a check: severity, stable code, place, meaning and what to do about it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

# Programs rely on the codes, so they never change; docs/guides/check.md has the same table.
CODES = {
    "unread": "a part of the archive cannot be read by this check",
    "not-an-archive": "the file is not a zip, a .tar.gz or a model folder, or it is damaged",
    "file-name": "the file name does not fit the content: .mar is a zip, other names a .tar.gz",
    "zip-slip": "a member would be written outside the model's folder",
    "absolute-path": "a member has an absolute path",
    "backslash-name": "a member's name contains a backslash, which is not a separator on Linux",
    "link": "a link, which TorchServe replaces by an empty file, or which leads out of the folder",
    "special-file": "a member is neither a file nor a folder",
    "duplicate-name": "two members have the same name; TorchServe keeps the last one",
    "zip-bomb": "a member unpacks to more than it declares, or to more than 200 times its size",
    "zip-hidden": "the zip contains members or bytes that its directory does not list",
    "zip-unsupported": "a member is encrypted, or compressed in a way that TorchServe cannot read",
    "damaged": "a member's content does not match its checksum",
    "no-manifest": "MAR-INF/MANIFEST.json is missing, or not where TorchServe looks for it",
    "bad-manifest": "the manifest is invalid",
    "manifest-file": "the manifest names a file that is not in the archive",
    "no-handler": "the handler is neither a file of the archive nor a handler of TorchServe",
    "syntax": "a Python file does not compile",
    "handler-classes": "the handler file must define one class or a function handle(data, context)",
    "handler-methods": "the handler is a coroutine function, which TorchServe does not await",
    "shadowing": "a file of the archive has the name of a module that other code imports",
    "import-missing": "an imported module is neither in the archive nor installed",
    "config-file": "model-config.yaml cannot be read",
    "config-unused": "the manifest does not name model-config.yaml, so TorchServe ignores it",
    "config-misspelt": "a key resembles a setting of TorchServe, which ignores it",
    "config-unknown": "a key that neither TorchServe nor the handler reads",
    "config-type": "a value has a type that TorchServe ignores",
    "config-value": "TorchServe ignores a value, or replaces it",
    "config-workers": "minWorkers and maxWorkers contradict each other",
    "config-duplicate": "a key appears twice; the last one applies",
    "config-risky": "a setting is known to lose requests or to kill workers",
    "option": "the handler rejects an option under handler:",
    "pickle-code": "loading a pickle would run code",
    "pickle-globals": "a pickle needs classes that torch.load rejects by default",
    "pickle-unread": "a pickle could not be scanned completely",
    "weights-kind": "the artifact does not have the format that the handler loads",
    "native-code": "the archive contains compiled code, which cannot be checked",
    "labels": "index_to_name.json does not have the format that the handlers read",
    "no-bill": "there is no bill of materials, so content and packages cannot be compared with it",
    "optimized": "what optimized weights lost in accuracy, as measured when they were packed",
    "bad-bill": "bill-of-materials.json cannot be read",
    "bill-mismatch": "a file differs from the one that was packed",
    "sample": "the sample cannot be read",
    "requirements-ignored": "TorchServe installs requirements.txt only if it is configured to",
    "built-elsewhere": "the artifact was built for another machine, Python or torch version",
    "weights-mismatch": "the weights do not fit the architecture",
    "load-failed": "the handler cannot be loaded",
    "answer-refused": "the handler rejects its own sample",
    "answer-differs": "the prediction for the sample differs from the packed one",
    "crash": "the process that loaded the archive died",
    "timeout": "loading the archive and predicting its sample took too long",
    "memory": "the archive needs more memory than the limit",
}

T = TypeVar("T")


class Severity(StrEnum):
    """error: it cannot be served as declared; warning: possibly not; note: for information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One result of a check. Its texts are safe to print: control characters are escaped.

    Attributes:
        where: a member, `member:line`, or `outer.pt!inner.pkl`; "" for the whole archive.
        meaning: what is wrong, and how TorchServe treats it.
        todo: how to fix it.
    """

    severity: Severity
    code: str
    where: str
    meaning: str
    todo: str

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code
        for name in ("where", "meaning", "todo"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @classmethod
    def error(cls, code: str, where: str, meaning: str, todo: str) -> Finding:
        return cls(Severity.ERROR, code, where, meaning, todo)

    @classmethod
    def warning(cls, code: str, where: str, meaning: str, todo: str) -> Finding:
        return cls(Severity.WARNING, code, where, meaning, todo)

    @classmethod
    def note(cls, code: str, where: str, meaning: str, todo: str) -> Finding:
        return cls(Severity.NOTE, code, where, meaning, todo)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# A check yields its findings, and returns what it read for the checks after it.
Check = Generator[Finding, None, T]


def collect(check: Check[T]) -> tuple[list[Finding], T]:
    """Run a check; return its findings and its result."""
    findings: list[Finding] = []
    while True:
        try:
            findings.append(next(check))
        except StopIteration as end:
            return findings, end.value


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.severity is Severity.ERROR for finding in findings)


def short_repr(value: object, limit: int = 60) -> str:
    """The repr of any value in an archive, cut to `limit` characters."""
    try:
        return f"{value!r:.{limit}}"
    except ValueError:  # Python does not convert integers of more than 4,300 digits
        return "a number of thousands of digits"


def printable(text: str, limit: int = 600) -> str:
    """Text for a terminal: unprintable characters (escapes, bidi marks) become their codes."""
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
