"""What a check says: a severity, a short stable code, where, what it means, what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

# A code is for programs and for looking up (docs/guides/check.md has this table); it never changes.
CODES = {
    "unread": "a part of the archive that this check cannot read",
    "not-an-archive": "no zip, no .tar.gz and no folder of a model, or broken",
    "file-name": "TorchServe goes by the name: a zip is .mar, anything else a .tar.gz",
    "zip-slip": "a member would be written outside of the model's folder",
    "absolute-path": "a member has an absolute path",
    "backslash-name": "a member's name has a backslash, which is no separator on Linux",
    "link": "a link, which TorchServe turns into an empty file, or which leads outside",
    "special-file": "neither a file nor a folder",
    "duplicate-name": "two members of one name: the later one wins in silence",
    "zip-bomb": "unpacks to more than it declares, or to more than 200 times its size",
    "zip-hidden": "members or bytes that the zip's directory does not name",
    "zip-unsupported": "encrypted, or compressed in a way that TorchServe cannot read",
    "damaged": "a member's bytes are not what its checksum says",
    "no-manifest": "no MAR-INF/MANIFEST.json where TorchServe looks for it",
    "bad-manifest": "the manifest is not what TorchServe reads",
    "manifest-file": "the manifest names a file that is not in the archive",
    "no-handler": "the handler is no file of the archive and no handler of TorchServe",
    "syntax": "a Python file that does not compile",
    "handler-classes": "the handler file must define one class or a function handle(data, context)",
    "handler-methods": "the handler's class or function cannot be called as TorchServe does",
    "model-classes": "the model file must define exactly one class",
    "shadowing": "a file of the archive has the name of a module that others need",
    "import-missing": "an import that finds nothing",
    "import-undeclared": "an import of a package that the bill of materials does not name",
    "config-file": "model-config.yaml cannot be read",
    "config-unused": "a model-config.yaml that the manifest does not name",
    "config-misspelt": "a key that looks like one of TorchServe's, and is ignored",
    "config-unknown": "a key that nobody reads",
    "config-type": "a value of a type that TorchServe ignores",
    "config-value": "a value that TorchServe ignores, or takes for another one",
    "config-workers": "minWorkers and maxWorkers do not go together",
    "config-duplicate": "a key that stands there twice: the later one wins",
    "config-risky": "a setting that is known to lose requests or to kill workers",
    "option": "an option under handler: that the handler refuses",
    "pickle-code": "a pickle that runs code when it is loaded",
    "pickle-globals": "a pickle that needs classes which torch.load refuses by default",
    "pickle-unread": "a pickle that could not be scanned whole",
    "weights-kind": "the artifact is not what its handler loads",
    "native-code": "compiled code: no check can say what it does",
    "labels": "index_to_name.json is not what the handlers read",
    "no-bill": "no bill of materials: what the archive needs is not written down",
    "bad-bill": "bill-of-materials.json cannot be read",
    "bill-mismatch": "a file is not the one that was packed",
    "sample": "the sample cannot be read",
    "requirements-ignored": "requirements.txt is installed only where the server is told to",
    "built-elsewhere": "the artifact was built for another machine, Python or torch",
    "weights-mismatch": "the weights do not fit the architecture",
    "load-failed": "the handler does not load",
    "answer-refused": "the handler refuses its own sample",
    "answer-differs": "the sample's answer is not the one that it was packed with",
    "crash": "the process that loaded the archive died",
    "timeout": "loading and answering the sample took too long",
    "memory": "the archive needs more memory than it was given",
}


class Severity(StrEnum):
    """error: it will not serve, or not as it says; warning: it may not; note: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing found. All texts are safe to print: an archive's own words are escaped.

    Attributes:
        where: a member, `member:line`, or `outer.pt!inner.pkl`; "" for the whole archive.
        meaning: what is there, and what TorchServe makes of it.
        todo: what the one who packs it does about it.
    """

    severity: Severity
    code: str
    where: str
    meaning: str
    todo: str

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code
        for name in ("where", "meaning", "todo"):
            object.__setattr__(self, name, visible(getattr(self, name)))

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


@dataclass
class Findings:
    """A growing list of findings."""

    items: list[Finding] = field(default_factory=list)

    def error(self, code: str, where: str, meaning: str, todo: str) -> None:
        self.items.append(Finding(Severity.ERROR, code, where, meaning, todo))

    def warning(self, code: str, where: str, meaning: str, todo: str) -> None:
        self.items.append(Finding(Severity.WARNING, code, where, meaning, todo))

    def note(self, code: str, where: str, meaning: str, todo: str) -> None:
        self.items.append(Finding(Severity.NOTE, code, where, meaning, todo))

    @property
    def failed(self) -> bool:
        return any(found.severity is Severity.ERROR for found in self.items)


def short(value: object, limit: int = 60) -> str:
    """A value of an archive's, whatever it is, in a line."""
    try:
        return f"{value!r:.{limit}}"
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def visible(text: str, limit: int = 600) -> str:
    """Text for a terminal: what is not printable (escapes, bidi marks) shows as its code."""
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
