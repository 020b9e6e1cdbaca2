"""A user's project: the folder where a command runs, and the paths in it.

Imports only the standard library, because the client uses it too.
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
    """Contents of the file that `vestal serve` writes when every model is ready.

    Attributes:
        inference, management, metrics: base addresses (`http://127.0.0.1:8080`).
        pid: process id of `vestal serve`.
        key_file: TorchServe's token file; None if tokens are off.
        models: a `{"name", "version", "default"}` for each served version; kept up to date.
        model_store: folder of the archives.
        failed: a `{"archive", "reason"}` for each archive that cannot be served.
        keeper: base address of the keeper's API; None without a keeper.
        gateway: base address of the gateway; None without one.
    """

    inference: str
    management: str
    metrics: str
    pid: int
    key_file: str | None
    models: list[dict[str, Any]]
    model_store: str | None = None
    failed: list[dict[str, str]] = field(default_factory=list)
    keeper: str | None = None
    gateway: str | None = None

    @classmethod
    def read(cls, path: Path) -> ReadyFile:
        """Read a ready file.

        Raises:
            FileNotFoundError: it does not exist.
            VestalError: it is not a ready file.
        """
        text = path.read_text(encoding="utf-8")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise VestalError(
                f"{path} is not a ready file of `vestal serve` ({error}). "
                "Remove it and start the server again"
            ) from None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


class Phase(NamedTuple):
    """Contents of the phase file, which exists while a server is `starting` or `stopping`.

    `pid`: process id of `vestal serve`. `since`: seconds since 1970. `keeper`: base address of the
    keeper's API, if it listens already or still.
    """

    phase: str
    pid: int
    since: float
    keeper: str | None = None


@dataclass(frozen=True)
class Project:
    """The paths of a project. They need not exist."""

    root: Path

    @classmethod
    def here(cls) -> Project:
        return cls(Path.cwd())

    def path(self, relative: str) -> Path:
        """Resolve a path in the project; it stays relative if the project is the current folder."""
        return Path(relative) if self.root == Path.cwd() else self.root / relative

    @property
    def models(self) -> Path:
        """A folder for each model: model.py, recipe.py, transforms.py, model-config.yaml."""
        return self.root / "models"

    @property
    def runs(self) -> Path:
        """`runs/<model>/<number>/`: the results of each training."""
        return self.root / "runs"

    @property
    def model_store(self) -> Path:
        return self.root / "model_store"

    @property
    def config(self) -> Path:
        """TorchServe's config.properties."""
        return self.root / "config.properties"

    @property
    def state(self) -> Path:
        """Files of this project's server (mode 0700, because of the keys)."""
        return self.root / ".vestal"

    @property
    def ready_file(self) -> Path:
        return self.state / "ready.json"

    @property
    def phase_file(self) -> Path:
        return self.state / PHASE_FILE

    @property
    def key_file(self) -> Path:
        """TorchServe's keys, which it writes into its working directory, `state`."""
        return self.state / "key_file.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def worker_counts(self) -> Path:
        """How many workers each version may have, for the workers' threads."""
        return self.state / "workers.json"

    @property
    def shadow(self) -> Path:
        """`shadow/<model>/<version>/`: digests of compared responses, which workers write."""
        return self.state / "shadow"
