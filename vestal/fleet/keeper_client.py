"""The client of the keeper's API, for the commands of a project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from vestal.client.errors import ConnectionFailed
from vestal.client.settings import phase_near, read_ready_file
from vestal.errors import UsageError, VestalError
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus, Command
from vestal.fleet.desired import Desired
from vestal.fleet.keeper_token import read_token
from vestal.fleet.status import Event, PlanReport, RevisionSummary, Source, Status
from vestal.project import Project

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 60.0
_SILENCE_SECONDS = 15.0
"""Three times the interval of the empty lines in a stream."""


class KeeperLost(VestalError):
    """The keeper does not respond, although its server ran before."""


class Conflict(VestalError):
    """Another command has changed the desired state meanwhile."""


class _Place(NamedTuple):
    url: str
    token: str
    pid: int


class KeeperClient:
    """Calls the keeper of a project's server.

    It reads address and token from the project's files, and again when the server was restarted.

    Raises:
        ConnectionFailed: no server runs here, or it is starting.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc
        self._place = _find(project)

    @property
    def instance(self) -> str:
        """A text that is different after a restart of the server."""
        return self._place.token

    @property
    def pid(self) -> int:
        """Process id of `vestal serve`."""
        return self._place.pid

    def status(self) -> Status:
        return Status.model_validate_json(self._call("GET", "/v1/status"))

    def desired(self) -> tuple[int, Desired]:
        """Return the desired state and the number of its revision."""
        body = json.loads(self._call("GET", "/v1/desired"))
        return int(body["revision"]), Desired.model_validate(body["desired"])

    def plan(self, desired: Desired) -> PlanReport:
        body = desired.model_dump(mode="json")
        return PlanReport.model_validate_json(self._call("POST", "/v1/plan", body))

    def apply(self, desired: Desired, source: Source, base: int | None = None) -> RevisionSummary:
        """Change what is desired.

        Raises:
            Conflict: `base` is not the newest revision.
        """
        body = {
            "desired": desired.model_dump(mode="json"),
            "source": source.model_dump(),
            "base": base,
        }
        return RevisionSummary.model_validate_json(self._call("POST", "/v1/apply", body))

    def rollback(self, model: str | None, source: Source) -> RevisionSummary:
        body = {"model": model, "source": source.model_dump()}
        return RevisionSummary.model_validate_json(self._call("POST", "/v1/rollback", body))

    def revisions(self) -> list[RevisionSummary]:
        """Return the history, newest first."""
        found = json.loads(self._call("GET", "/v1/revisions"))
        return [RevisionSummary.model_validate(each) for each in found]

    def canaries(self) -> list[CanaryStatus]:
        """Return the canaries that run, and the last one of each other model."""
        found = json.loads(self._call("GET", "/v1/canaries"))
        return [CanaryStatus.model_validate(each) for each in found]

    def canary(self, model: str) -> CanaryStatus:
        """Return the canary of a model that runs, or the last one.

        Raises:
            VestalError: there was none.
        """
        path = f"/v1/canaries/{quote(model, safe='')}"
        return CanaryStatus.model_validate_json(self._call("GET", path))

    def start_canary(self, request: CanaryRequest) -> CanaryStatus:
        body = request.model_dump(mode="json")
        return CanaryStatus.model_validate_json(self._call("POST", "/v1/canaries", body))

    def change_canary(self, model: str, command: Command) -> CanaryStatus:
        """Pause, resume or abort a canary."""
        path = f"/v1/canaries/{quote(model, safe='')}/{command}"
        return CanaryStatus.model_validate_json(self._call("POST", path))

    def stop(self) -> None:
        self._call("POST", "/v1/stop")

    def events(self, after: int, seconds: float) -> Iterator[Event]:
        """Yield the events after a number, for `seconds`.

        Raises:
            KeeperLost: the connection was lost.
        """
        query = f"/v1/events?after={after}&timeout={seconds:g}"
        with self._send("GET", query, stream=True, timeout=_SILENCE_SECONDS) as response:
            try:
                for line in response.iter_lines(chunk_size=None):
                    if line:
                        yield Event.model_validate_json(line)
            except (requests.RequestException, ValueError) as error:
                raise self._lost(error) from None

    def close(self) -> None:
        self._session.close()

    def _call(self, method: str, path: str, body: Any = None) -> bytes:
        return self._send(method, path, body).content

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        stream: bool = False,
        timeout: float = _CALL_SECONDS,
    ) -> requests.Response:
        """Send a request; once more if the server was restarted since the last one."""
        for is_last in (False, True):
            used = self._place
            try:
                response = self._session.request(
                    method,
                    used.url + path,
                    json=body,
                    headers={"Authorization": f"Bearer {used.token}"},
                    stream=stream,
                    timeout=(_CONNECT_SECONDS, timeout),
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                if is_last or not self._was_restarted():
                    raise self._lost(error) from None
                continue
            if response.status_code == 401 and not is_last and self._was_restarted():
                response.close()
                continue
            if not response.ok:
                raise _error_of(response, used)
            return response
        raise AssertionError  # the last round returns or raises

    def _was_restarted(self) -> bool:
        before = self._place
        try:
            self._place = _find(self._project)
        except ConnectionFailed as error:
            raise KeeperLost(str(error)) from None
        return self._place != before

    def _lost(self, error: Exception) -> KeeperLost:
        place = self._place
        what = "did not respond in time" if isinstance(error, requests.Timeout) else "is gone"
        return KeeperLost(
            f"the connection to the server (process {place.pid}, {place.url}) {what}. If it still "
            f"runs, see {self._project.logs}; `kill {place.pid}` ends it"
        )


def _find(project: Project) -> _Place:
    """Find the keeper by the ready file, or by the phase file of a server that is starting."""
    try:
        ready = read_ready_file(project.ready_file)
        address, pid = ready.keeper, ready.pid
    except ConnectionFailed as error:
        phase = phase_near(project.ready_file)
        if phase is None:
            error.hint = "Start one with `vestal serve`"
            raise _elsewhere(project) or error from None
        if phase.keeper is None:
            raise
        address, pid = phase.keeper, phase.pid
    if address is None:
        raise ConnectionFailed(
            f"the server of this project (process {pid}) has no keeper: another version of Vestal "
            "has started it",
            hint="Stop it and run `vestal serve`",
        )
    return _Place(address, read_token(project) or "", pid)


def _elsewhere(project: Project) -> ConnectionFailed | None:
    """The error for a command in a subfolder of a project whose server runs."""
    for folder in project.root.absolute().parents:
        above = Project(folder)
        if above.ready_file.exists() or phase_near(above.ready_file) is not None:
            return ConnectionFailed(
                f"no server runs here, but one does in {folder}",
                hint=f"Run the command there: cd {folder}",
            )
    return None


def _error_of(response: requests.Response, place: _Place) -> VestalError:
    try:
        body = response.json()
        kind, message = str(body["type"]), str(body["message"])
    except (ValueError, KeyError, TypeError, requests.RequestException):
        kind, message = "", f"{place.url} responded with status {response.status_code}"
    if kind == "UsageError":
        return UsageError(message)
    if kind == "Conflict":
        return Conflict(message)
    if response.status_code == 401:
        message = (
            f"the server at {place.url} does not accept the token in .vestal/keeper_token. If it "
            "was restarted this moment, try again"
        )
    return VestalError(message)
