"""The client of the keeper: it finds the server, survives restarts, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from keeper_fake import SOURCE, FakeKeeper, desired, keeper_api
from serving import until

from vestal.client.errors import ConnectionFailed
from vestal.errors import UsageError, VestalError
from vestal.fleet import following
from vestal.fleet.following import Follower, StillWorking
from vestal.fleet.keeper_client import Conflict, KeeperClient, KeeperLost
from vestal.fleet.keeper_token import token_file
from vestal.project import Phase, Project, ReadyFile

pytestmark = pytest.mark.heavy


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def keeper():
    return FakeKeeper(desired(mnist=["1.0"]))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_all_calls(project, keeper):
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        assert client.status().models[0].name == "mnist"
        base, state = client.desired()
        assert (base, state) == (1, keeper.desired())
        new = desired(mnist=["2.0"])
        assert client.plan(new).steps[0].change == "1.0 -> 2.0"
        made = client.apply(new, SOURCE, base)
        assert (made.number, made.changes) == (2, ["mnist 1.0 -> 2.0"])
        assert client.rollback("mnist", SOURCE).changes == ["mnist 2.0 -> 1.0"]
        assert [each.number for each in client.revisions()] == [3, 2, 1]
        assert client.pid == os.getpid()
        client.stop()
        assert keeper.stopped.is_set()


def test_errors_have_the_type_of_the_keeper(project, keeper):
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        with pytest.raises(UsageError, match="no previous revision"):
            client.rollback(None, SOURCE)
        with pytest.raises(Conflict, match="revision 1 was applied after revision 0"):
            client.apply(desired(), SOURCE, 0)
        keeper.failure = VestalError("the disk is full")
        with pytest.raises(VestalError, match="the disk is full"):
            client.apply(desired(), SOURCE)


def test_proxies_of_the_environment_are_not_used(project, keeper, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with keeper_api(project, keeper, os.getpid()):
        assert KeeperClient(project).status().ready


def test_without_a_server_the_error_says_how_to_start_one(project):
    with pytest.raises(
        ConnectionFailed, match=r"no server runs here.*Start one with `vestal serve`"
    ):
        KeeperClient(project)


def test_the_server_of_a_folder_above_is_named(project, keeper, tmp_path):
    below = tmp_path / "models" / "mnist"
    below.mkdir(parents=True)
    named = pytest.raises(ConnectionFailed, match=f"one does in {tmp_path}.*cd {tmp_path}")
    with keeper_api(project, keeper, os.getpid()), named:
        KeeperClient(Project(below))


def test_a_server_that_has_ended_or_is_starting(project):
    project.state.mkdir()
    address = "http://127.0.0.1:9"
    ready = ReadyFile(address, address, address, dead_pid(), None, [], keeper=address)
    project.ready_file.write_text(ready.to_json())
    with pytest.raises(ConnectionFailed, match=r"\(process \d+\) has ended"):
        KeeperClient(project)
    project.ready_file.unlink()
    starting = Phase("starting", os.getpid(), time.time())
    project.phase_file.write_text(json.dumps(starting._asdict()))
    with pytest.raises(ConnectionFailed, match="is starting"):
        KeeperClient(project)


def test_a_server_that_is_starting_can_be_called_as_soon_as_its_keeper_listens(project, keeper):
    with keeper_api(project, keeper, os.getpid()) as server:
        project.ready_file.unlink()
        starting = Phase("starting", os.getpid(), time.time(), server.url)
        project.phase_file.write_text(json.dumps(starting._asdict()))
        assert KeeperClient(project).status().ready


def test_a_server_without_a_keeper_is_named(project):
    project.state.mkdir()
    address = "http://127.0.0.1:9"
    ready = ReadyFile(address, address, address, os.getpid(), None, [])
    project.ready_file.write_text(ready.to_json())
    with pytest.raises(ConnectionFailed, match="has no keeper"):
        KeeperClient(project)


def test_a_restarted_server_is_found_again(project, keeper):
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        before = client.instance
        assert client.status().ready
    with keeper_api(project, keeper, os.getpid()):
        assert client.status().ready
        assert client.instance != before


def test_a_wrong_token_is_reported(project, keeper):
    with keeper_api(project, keeper, os.getpid()):
        token_file(project).write_text("wrong")
        with pytest.raises(VestalError, match="does not accept the token"):
            KeeperClient(project).status()


def test_a_server_that_does_not_respond_any_more(project, keeper):
    with keeper_api(project, keeper, os.getpid()) as server:
        client = KeeperClient(project)
        server.stop()
        with pytest.raises(KeeperLost, match=rf"process {os.getpid()}.*is gone"):
            client.status()


def test_another_program_on_the_port_is_one_sentence(project, keeper, monkeypatch):
    with keeper_api(project, keeper, os.getpid()) as server:
        client = KeeperClient(project)
        client._place = client._place._replace(url=f"{server.url}/elsewhere")
        with pytest.raises(VestalError, match="Not Found"):
            client.status()


def follow(client, number, seconds=30):
    events, notices = [], []
    ended = Follower(client, events.append, notices.append, seconds).wait(number)
    return ended, [each.text for each in events], notices


def test_a_follower_reads_every_event_of_its_revision(project, keeper):
    keeper.emit("note", "of another revision")
    keeper.script = [{"kind": "started", "text": "one"}, {"kind": "done", "text": "two"}]
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        made = client.apply(desired(mnist=["2.0"]), SOURCE)
        ended, texts, notices = follow(client, made.number)
        assert (ended.outcome, texts) == ("done", ["one", "two", "everything runs"])
        assert notices == []


def test_a_follower_waits_for_the_outcome(project, keeper):
    keeper.outcome = None
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        made = client.apply(desired(mnist=["2.0"]), SOURCE)
        threading.Timer(0.3, keeper.end, ("failed", "it predicts something else")).start()
        ended, _, _ = follow(client, made.number)
        assert (ended.outcome, ended.reason) == ("failed", "it predicts something else")


def test_a_follower_stops_at_its_time_limit(project, keeper):
    keeper.outcome = None
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        made = client.apply(desired(mnist=["2.0"]), SOURCE)
        with pytest.raises(StillWorking, match=r"revision 2 is not done after 0\.2 s"):
            follow(client, made.number, 0.2)


def test_a_follower_goes_on_after_a_restart_of_the_server(project, keeper):
    """The events of the new server are counted from 1 again."""
    keeper.outcome = None
    keeper.script = [{"kind": "started", "text": "before"}]
    events, notices = [], []
    with keeper_api(project, keeper, os.getpid()):
        client = KeeperClient(project)
        made = client.apply(desired(mnist=["2.0"]), SOURCE)
        follower = Follower(client, events.append, notices.append, 30)
        ended = []
        thread = threading.Thread(target=lambda: ended.append(follower.wait(made.number)))
        thread.start()
        until(lambda: events, 10, "the first event")
    keeper.log.clear()
    with keeper_api(project, keeper, os.getpid()):
        until(lambda: "the server has returned" in notices, 10, "the new connection")
        keeper.emit("done", "after")
        keeper.end("done")
        thread.join(10)
    assert [each.text for each in events] == ["before", "after", "everything runs"]
    assert [each.outcome for each in ended] == ["done"]


def test_a_server_that_does_not_return_is_reported(project, keeper, monkeypatch):
    monkeypatch.setattr(following, "_RETURN_SECONDS", 1.0)
    keeper.outcome = None
    with keeper_api(project, keeper, os.getpid()) as server:
        client = KeeperClient(project)
        made = client.apply(desired(mnist=["2.0"]), SOURCE)
        server.stop()
        with pytest.raises(KeeperLost, match=r"did not return within 1 s\. Revision 2 is stored"):
            follow(client, made.number)


def test_an_old_ready_file_can_be_read(project):
    project.state.mkdir()
    ready = dataclasses.asdict(ReadyFile("a", "b", "c", 1, None, []))
    del ready["keeper"]
    project.ready_file.write_text(json.dumps(ready))
    assert ReadyFile.read(project.ready_file).keeper is None
