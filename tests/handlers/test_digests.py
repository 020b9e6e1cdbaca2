"""Handlers write a digest of each compared response, and of no other."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys

import pytest
from folders import as_json

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers import digests
from vestal_handlers.digests import DigestLog, version_folder

LIVE = {"x-vestal-compare": "2.0"}
COPY = {**LIVE, "x-vestal-shadow": "1"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(digests.FOLDER_VARIABLE, str(tmp_path / "shadow"))
    return tmp_path / "shadow"


@pytest.fixture
def compared(root, doubler_folder):
    with LoadedArchive(doubler_folder) as loaded:
        yield loaded
        loaded.handler.digests.close()


def number(value, request_id, marks=LIVE):
    return as_json(value, **marks, **{"x-request-id": request_id})


def files(root):
    return sorted(root.glob("*/*/*"))


def written(root):
    return [json.loads(line) for file in files(root) for line in file.read_bytes().splitlines()]


def test_only_marked_requests_of_a_batch_are_written(compared, root):
    batch = [
        number(1, "a"),
        as_json(2, **{"x-request-id": "b"}),
        number(3, "c", COPY),
        number("text", "d"),
    ]
    answers = compared.predict(batch)
    assert [each.status for each in answers] == [200, 200, 200, 422]
    first, second, third = written(root)
    assert (first["id"], first["shadow"], first["with"], first["status"]) == (
        "a",
        False,
        "2.0",
        200,
    )
    assert first["body"] == answers[0].body.decode()
    assert (second["id"], second["shadow"], json.loads(second["body"])) == (
        "c",
        True,
        {"doubled": 6},
    )
    assert (third["id"], third["status"]) == ("d", 422)
    assert all(0 < each["seconds"] < 60 for each in (first, second, third))
    assert len(files(root)) == 1
    assert files(root)[0].parent == version_folder(root, "doubler", "1.0")


def test_the_marks_do_not_change_the_response(compared):
    plain, marked, copy = compared.predict([as_json(1), number(1, "a"), number(1, "a", COPY)])
    assert (plain.status, plain.headers, plain.body) == (marked.status, marked.headers, marked.body)
    assert (plain.status, plain.headers, plain.body) == (copy.status, copy.headers, copy.body)


def test_without_marked_requests_there_is_no_folder(compared, root):
    compared.predict([as_json(1)])
    assert not root.exists()


def test_a_server_that_names_no_folder_writes_nothing(doubler, tmp_path):
    assert doubler.handler.digests is None
    assert doubler.predict([number(1, "a")])[0].status == 200
    assert not list(tmp_path.iterdir())


def test_only_the_user_of_the_server_can_read_them(compared, root):
    compared.predict([number(1, "a")])
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root, *files(root))]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(
    ("request_id", "kept"),
    [
        ('a\n{"id": "b"}\r\n', 'a\n{"id": "b"}\r\n'),
        ("\ud800\0é\u2028", "\ud800\0é\u2028"),
        ("x" * 1_000_000, f"sha256:{hashlib.sha256(b'x' * 1_000_000).hexdigest()}"),
        ("", ""),
    ],
    ids=["line feed", "odd characters", "1 MB", "empty"],
)
def test_any_request_id_fits_a_line(request_id, kept):
    headers = {"x-request-id": request_id, "x-vestal-compare": "v" * 1_000_000}
    line = digests.digest_line(headers, 1.0, 0.1, 200, {})
    assert (line.count(b"\n"), line.endswith(b"\n"), len(line) < 1000) == (1, True, True)
    assert json.loads(line)["id"] == kept


def test_of_images_and_long_json_a_hash_is_written(compared, root):
    many = as_json({"instances": [1] * 200 + [9]}, **LIVE, **{"x-request-id": "many"})
    media, long = compared.predict([number(9, "media"), many])
    assert media.headers["content-type"] == "image/png"
    assert len(long.body) < digests.MAX_BODY  # 201 instances are short ones
    first, second = written(root)
    assert (first["bytes"], first["sha256"]) == (4, hashlib.sha256(b"nine").hexdigest())
    assert second["body"] == long.body.decode()
    assert digests.answer_of(b" " * 5000, "application/json")["bytes"] == 5000
    assert "sha256" in digests.answer_of(b"\xff", "application/json")
    assert "sha256" in digests.answer_of(b"{}", None)


def test_a_score_that_is_not_a_number_is_a_failed_response(compared, root):
    assert compared.predict([number(8, "nan")])[0].status == 500
    (digest,) = written(root)
    assert (digest["status"], json.loads(digest["body"])["type"]) == (500, "HandlerError")


def test_a_description_is_compared_with_nothing_that_harms(compared, root):
    answer = compared.predict([Input({}, {"describe": "True", **LIVE, "x-request-id": "d"})])[0]
    assert answer.status == 200
    assert [each["id"] for each in written(root)] == ["d"]


def test_after_a_full_disk_the_response_is_sent_and_writing_resumes(
    compared, root, monkeypatch, caplog
):
    write, free = os.write, 30

    def fill(file, data):
        nonlocal free
        if not free:
            raise OSError(errno.ENOSPC, "No space left on device")
        free, part = 0, data[:free]
        return write(file, part)

    clock = [0.0]
    monkeypatch.setattr(digests.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "write", fill)
    with caplog.at_level(logging.ERROR, "vestal_handlers.digests"):
        for request_id in "abc":
            assert compared.predict([number(1, request_id)])[0].status == 200
            clock[0] += digests.PAUSE_SECONDS / 2
        assert compared.predict([number(1, "d")])[0].status == 200
    assert len(caplog.records) == 1
    monkeypatch.setattr(os, "write", write)
    clock[0] += digests.PAUSE_SECONDS
    compared.predict([number(1, "e")])
    torn, *whole = files(root)
    assert len(torn.read_bytes()) == 30
    lines = [json.loads(line) for file in whole for line in file.read_bytes().splitlines()]
    assert [each["id"] for each in lines] == ["e"]


LIMITED = """
import logging, resource, sys
from pathlib import Path
from vestal_handlers import digests
logging.basicConfig(level=logging.ERROR, format="%(message)s")
digests.PAUSE_SECONDS = 0

class Context:
    def get_response_status(self, index):
        return 200, ""
    def get_response_content_type(self, index):
        return "application/json"

class Request:
    index = 0
    def __init__(self, request_id):
        self.headers = {"x-vestal-compare": "2", "x-request-id": request_id}

resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
log = digests.DigestLog(Path(sys.argv[1]), "m", "1", "worker")
for number in range(9):
    log.add([Request(f"id-{number}")], [b"{}"], Context(), 0.0)
"""


def test_a_line_that_does_not_fit_on_the_disk_damages_no_other(root):
    """The system writes a part of a line: here at the limit of a file's size."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, root], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stderr
    torn, whole = 0, []
    for file in files(root):
        lines = file.read_bytes().splitlines(keepends=True)
        torn += not lines[-1].endswith(b"\n")
        whole += [json.loads(line)["id"] for line in lines if line.endswith(b"\n")]
    assert torn > 0
    assert len(whole) + torn == 9
    assert whole == sorted(whole)


def test_a_folder_that_cannot_be_made_harms_no_request(compared, root, caplog):
    root.write_text("a file")
    with caplog.at_level(logging.ERROR, "vestal_handlers.digests"):
        assert compared.predict([number(1, "a"), number(2, "b")])[0].json() == {"doubled": 2}
    assert "digests for the shadow report cannot be written" in caplog.text


def test_a_removed_file_is_started_again(compared, root):
    compared.predict([number(1, "a")])
    files(root)[0].unlink()
    compared.predict([number(1, "b")])
    assert [each["id"] for each in written(root)] == ["b"]


def test_files_are_limited_in_size_and_the_oldest_are_removed(root, monkeypatch):
    monkeypatch.setattr(digests, "FILE_BYTES", 1000)
    monkeypatch.setattr(digests, "LEAST_BYTES", 500)
    monkeypatch.setattr(digests, "VERSION_BYTES", 5000)
    monkeypatch.setattr(digests, "TOTAL_BYTES", 8000)
    for version in ("1.0", "2.0"):
        # Each worker is a process that ended; TorchServe has started another one.
        for worker in range(40):
            log = DigestLog(root, "m", version, f"{worker:016x}")
            for place in range(3):
                log._write(json.dumps({"v": version, "n": 3 * worker + place}).encode() + b"\n")
            os.utime(path_of(log), (worker, worker))
            log.close()
        assert len(files(root)) <= 16
    kept = written(root)
    newest = [each["n"] for each in kept if each["v"] == "2.0"]
    assert newest == list(range(120 - len(newest), 120))
    assert sum(max(file.stat().st_size, 500) for file in files(root)) <= 8000
    assert len(newest) >= 15


def path_of(log):
    return log._folder / f"{log._worker}-{log._number:06}.jsonl"


def test_a_long_file_is_followed_by_another(root, monkeypatch):
    monkeypatch.setattr(digests, "FILE_BYTES", 1000)
    log = DigestLog(root, "m", "1", "worker")
    for _ in range(10):
        log._write(b"x" * 299 + b"\n")
    log.close()
    assert [file.stat().st_size for file in files(root)] == [1200, 1200, 600]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "ü", "%2E", "a b"])
def test_names_of_models_stay_in_the_folder(tmp_path, name):
    folder = version_folder(tmp_path, name, name).resolve()
    assert folder.relative_to(tmp_path.resolve()).parts[0] not in ("..", ".")
    assert len(folder.relative_to(tmp_path.resolve()).parts) == 2
    assert digests.name_of(folder) == name
