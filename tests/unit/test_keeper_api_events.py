"""The event stream of the keeper's HTTP API."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
import requests
from keeper_fake import keeper_api
from keeper_http import api as api
from keeper_http import assert_error
from keeper_http import keeper as keeper

from vestal.fleet.keeper_token import read_token
from vestal.project import Project


def test_events_come_one_by_one_and_go_on_from_a_number(api, keeper):
    keeper.emit("note", "first")
    lines = api("GET", "/v1/events?after=0&timeout=0").text.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["first"]
    with api("GET", "/v1/events?after=1&timeout=30", stream=True) as stream:
        keeper.emit("note", "second")
        line = next(line for line in stream.iter_lines(chunk_size=1) if line)
        assert json.loads(line)["number"] == 2


def test_an_event_stream_ends_at_its_time_limit(api):
    started = time.monotonic()
    assert api("GET", "/v1/events?timeout=0.2").text == ""
    assert time.monotonic() - started >= 0.2


def test_a_silent_stream_shows_that_it_is_alive(api, monkeypatch):
    monkeypatch.setattr("vestal.fleet.event_stream._HEARTBEAT_SECONDS", 0.1)
    with api("GET", "/v1/events?timeout=30", stream=True) as stream:
        assert next(stream.iter_content(1)) == b"\n"


def test_invalid_queries_of_events(api):
    for query in ("after=-1", "after=x", "timeout=-1", "timeout=nan", "timeout=9999"):
        assert_error(api("GET", f"/v1/events?{query}"), 422, "InvalidRequest", "query.")


def test_many_open_streams_do_not_block_other_calls(api, monkeypatch):
    monkeypatch.setattr("vestal.fleet.event_stream.EventStream.limit", 3)
    streams = [api("GET", "/v1/events?timeout=60", stream=True) for _ in range(3)]
    try:
        deadline = time.monotonic() + 10
        while (refused := api("GET", "/v1/events?timeout=0")).ok:
            assert time.monotonic() < deadline
        assert_error(refused, 503, "Failed", "3 event streams are open")
        assert api("GET", "/v1/status").ok
    finally:
        for stream in streams:
            stream.close()


def test_a_stop_ends_open_streams(tmp_path, keeper):
    project = Project(tmp_path)
    with keeper_api(project, keeper, os.getpid()) as server:
        headers = {"Authorization": f"Bearer {read_token(project)}"}
        url = f"{server.url}/v1/events?timeout=600"
        stream = requests.get(url, headers=headers, stream=True, timeout=10)
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (list(stream.iter_lines()), ended.set()))
        thread.start()
        server.stop()
        assert ended.wait(10)
        thread.join()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/live", timeout=10)
        server.stop()  # does nothing
