"""A user's project: the folder where the command runs, and the places in it.

Only the standard library is imported here: the client reads these paths too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vestal.errors import VestalError

PHASE_FILE = "phase.json"


@dataclass(frozen=True)
class ReadyFile:
    """What `vestal serve` writes once every model is READY and answered its probe.

    `inference`, `management`, `metrics`: base addresses (`http://127.0.0.1:8080`).
    `pid`: of `vestal serve`. `key_file`: TorchServe's token file, None when tokens are off.
    `models`: one `{"name", "version", "default"}` for each served version; kept up to date while
    the server runs. `model_store`: the folder of the archives. `failed`: one
    `{"archive", "reason"}` for each archive that is not served because it could not be.
    """

    inference: str
    management: str
    metrics: str
    pid: int
    key_file: str | None
    models: list[dict[str, Any]]
    model_store: str | None = None
    failed: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> ReadyFile:
        """Reads a ready file.

        Raises FileNotFoundError where there is none, VestalError where it is none of ours.
        """
        text = path.read_text(encoding="utf-8")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise VestalError(
                f"{path} is not a ready file of `vestal serve` ({error}): "
                "remove it and start the server again"
            ) from None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


class Phase(NamedTuple):
    """Contents of the phase file, which exists while a server is `starting` or `stopping`.

    `pid`: of `vestal serve`. `since`: seconds since 1970.
    """

    phase: str
    pid: int
    since: float


@dataclass(frozen=True)
class Project:
    """The places in a project; nothing is made before it is needed."""

    root: Path

    @classmethod
    def here(cls) -> Project:
        return cls(Path.cwd())

    def path(self, given: str) -> Path:
        """What a path means here: in the folder where a command runs that is the path itself."""
        return Path(given) if self.root == Path.cwd() else self.root / given

    @property
    def models(self) -> Path:
        """One folder a model: model.py, recipe.py, transforms.py, model-config.yaml."""
        return self.root / "models"

    @property
    def runs(self) -> Path:
        """`runs/<model>/<number>/`: what each training left."""
        return self.root / "runs"

    @property
    def model_store(self) -> Path:
        return self.root / "model_store"

    @property
    def config(self) -> Path:
        """TorchServe's configuration."""
        return self.root / "config.properties"

    @property
    def state(self) -> Path:
        """What belongs to the server of this project (mode 0700: it holds the keys)."""
        return self.root / ".vestal"

    @property
    def ready_file(self) -> Path:
        return self.state / "ready.json"

    @property
    def phase_file(self) -> Path:
        return self.state / PHASE_FILE

    @property
    def key_file(self) -> Path:
        """TorchServe writes its keys into its working directory, which is `state`."""
        return self.state / "key_file.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"
