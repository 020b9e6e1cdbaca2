"""What callers send in every wrapping, over real HTTP, on Vestal's server and on a plain one."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import torch
from doubling import write_doubler
from fuzzing import bodies
from hostile import peak_of, png, reset_peak, zipped_instances
from hostile import tensor as tensor_body
from imaging import encoded, seven
from serving import plain_torchserve, python_without_vestal
from test_requests import tensor

import vestal_handlers
from vestal.archive.pack import pack
from vestal.client import Client
from vestal.mar.sample import matches, read_sample
from vestal.model_folders import zoo
from vestal.project import Project
from vestal.server import Server
from vestal_handlers.model_files import load_module

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GZIP = {"Content-Encoding": "gzip"}
PNG = encoded(seven())
BASE64 = base64.b64encode(PNG).decode()


def multipart(**parts):
    """A multipart body by hand: (headers, bytes); a part is text, or (file name, type, bytes)."""
    body = b""
    for name, part in parts.items():
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(part, str):
            body += b"\r\n\r\n" + part.encode()
        else:
            file, kind, data = part
            body += f'; filename="{file}"\r\nContent-Type: {kind}\r\n\r\n'.encode() + data
        body += b"\r\n"
    return {"Content-Type": "multipart/form-data; boundary=xyz"}, body + b"--xyz--\r\n"


def as_json(value, **headers):
    return {**JSON, **headers}, json.dumps(value).encode()


# model, headers, body
TABLE = {
    "image raw": ("mnist", {}, PNG),
    "image with its type": ("mnist", {"Content-Type": "image/png"}, PNG),
    "image called text": ("mnist", {"Content-Type": "text/plain"}, PNG),
    "image called JSON": ("mnist", JSON, PNG),
    "image as base64 text": ("mnist", {"Content-Type": "text/plain"}, BASE64.encode()),
    "image as JSON string": ("mnist", *as_json(BASE64)),
    "image as data URL": ("mnist", *as_json({"data": f"data:image/png;base64,{BASE64}"})),
    "image as b64": ("mnist", *as_json({"b64": BASE64})),
    "image instances": ("mnist", *as_json({"instances": [BASE64, "?", {"b64": BASE64}]})),
    "image file": ("mnist", *multipart(any=("x.png", "image/png", PNG))),
    "image files": ("mnist", *multipart(a=("x.png", "image/png", PNG), b=("y", "x/y", b"no"))),
    "image file and field": ("mnist", *multipart(a=("x.png", "image/png", PNG), b="text")),
    "image form field": ("mnist", *multipart(data=BASE64)),
    "image gzip": ("mnist", GZIP, gzip.compress(PNG)),
    "image as number": ("mnist", *as_json(7)),
    "empty": ("mnist", {}, b""),
    "empty JSON": ("mnist", JSON, b""),
    "no image": ("mnist", {}, b"hello"),
    "broken JSON": ("mnist", JSON, b'{"data": '),
    "JSON of another charset": ("mnist", JSON, '{"data": "é"}'.encode("latin-1")),
    "lone surrogate": ("mnist", JSON, b'{"data": "\\ud800"}'),
    "deep JSON": ("doubler", JSON, b"[" * 40 + b"]" * 40),
    "deepest JSON": ("doubler", JSON, b"[" * 20_000),
    "nameless form": ("doubler", FORM, b"1.5"),
    "form field": ("doubler", FORM, b"x=1.5"),
    "form fields": ("doubler", FORM, b"x=1.5&y=caf%C3%A9"),
    "number": ("doubler", *as_json(1.5)),
    "NaN": ("doubler", JSON, b"NaN"),
    "infinity": ("doubler", JSON, b"-Infinity"),
    "huge integer": ("doubler", JSON, b"1" * 400),
    "data": ("doubler", *as_json({"data": [1.5]})),
    "rows": ("doubler", *as_json([[1], ["a"], [13], {"x": 2}])),
    "too many rows": ("doubler", *as_json([[1]] * 300)),
    "instances": ("doubler", *as_json({"instances": [1, "a", 5]})),
    "no instances": ("doubler", *as_json({"instances": []})),
    "media": ("doubler", *as_json(9)),
    "fault of the model": ("doubler", *as_json(13)),
    "fault of decode": ("doubler", *as_json("broken decode")),
    "fault of encode": ("doubler", *as_json(7)),
    "not finite": ("doubler", *as_json(5)),
    "v2": ("doubler", *as_json(tensor([1, 2], [2], id="a"))),
    "v2 bad row": ("doubler", *as_json(tensor([1, 17], [2]))),
    "v2 bad shape": ("doubler", *as_json(tensor([1], [2]))),
    "gzip JSON": ("doubler", {**JSON, **GZIP}, gzip.compress(b"1.5")),
    "false gzip": ("doubler", {**JSON, **GZIP}, b"1.5"),
    "brotli": ("doubler", {"Content-Encoding": "br"}, b"1.5"),
    "trace": ("doubler", *as_json(1, traceparent="00-ab-cd-01", **{"X-Correlation-Id": "c;1"})),
}


# What images are fuzzed with: small ones are enlarged, so narrow ones would become very large.
TRANSFORMS = """
import torch
from torchvision.transforms import v2
from vestal_handlers.images.decoding import ImageTransform

steps = (v2.Resize(256), v2.CenterCrop(28), v2.ToDtype(torch.float32, scale=True))
transform = ImageTransform(mode="L", steps=steps)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A store with an mnist of random weights and the doubler."""
    root = tmp_path_factory.mktemp("any-body")
    own = Project(root)
    model = own.models / "mnist"
    shutil.copytree(zoo() / "mnist", model)
    (model / "transforms.py").write_text(TRANSFORMS)
    torch.manual_seed(0)
    weights = load_module(model, "model").build().state_dict()
    torch.save(weights, root / "weights.pt")
    pack(own, "mnist", version="1.0", weights=root / "weights.pt")
    folder = root / "doubler"
    folder.mkdir()
    write_doubler(folder)
    shutil.copytree(
        Path(vestal_handlers.__file__).parent,
        folder / "vestal_handlers",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    with zipfile.ZipFile(own.model_store / "doubler-1.0.mar", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return own


@pytest.fixture(scope="module")
def server(project):
    with Server(project, ["mnist=mnist-1.0.mar", "doubler=doubler-1.0.mar"], port=0) as running:
        yield running


@pytest.fixture(scope="module")
def address(server):
    return server.ready.inference


@pytest.fixture(scope="module")
def caller(server):
    keys = json.loads(Path(server.ready.key_file).read_text())
    return {"Authorization": f"Bearer {keys['inference']['key']}"}


@pytest.fixture(scope="module")
def workers(server):
    """The pids of every worker, by model."""
    ready = server.ready
    with Client(ready.inference, management=ready.management, key_file=ready.key_file) as client:
        yield lambda: {
            name: [worker.pid for worker in client.describe(name).workers]
            for name in ("mnist", "doubler")
        }


def ask(address, caller, model, headers, body):
    """Status, headers that the handler set, and body without its request id."""
    reply = requests.post(
        f"{address}/predictions/{model}", data=body, headers={**caller, **headers}, timeout=30
    )
    names = ("content-type", "x-model-name", "x-model-version", "x-failed-instances")
    kept = {n: reply.headers.get(n) for n in (*names, "traceparent", "x-correlation-id")}
    try:
        said = reply.json()
    except ValueError:
        return reply.status_code, kept, reply.content
    for one in [said, *said.get("predictions", [])]:
        one.pop("request_id", None)
    return reply.status_code, kept, said


def test_the_same_answers_with_and_without_configuration(project, address, caller, tmp_path):
    """Also: an archive serves on a TorchServe that has neither Vestal nor a configuration."""
    models = ("mnist=mnist-1.0.mar", "doubler=doubler-1.0.mar")
    root = tmp_path / "plain"
    with plain_torchserve(root, project.model_store, *models) as (plain, own_caller):
        for module in ("vestal", "vestal_handlers"):
            command = [str(python_without_vestal(root)), "-c", f"import {module}"]
            tried = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
            assert f"No module named '{module}'" in tried.stderr.decode()
        sample = read_sample(project.model_store / "mnist-1.0.mar")
        _, _, said = ask(
            plain, own_caller, "mnist", {"Content-Type": sample.content_type}, sample.input
        )
        assert matches(sample.answer, said, sample.tolerance) is None
        for name, (model, headers, body) in TABLE.items():
            ours = ask(address, caller, model, headers, body)
            theirs = ask(plain, own_caller, model, headers, body)
            assert ours[:2] == theirs[:2], name
            if isinstance(ours[2], bytes):
                assert ours[2] == theirs[2], name
            else:
                assert matches(ours[2], theirs[2], 1e-5) is None, name
            assert ours[1]["x-model-name"] == model, f"{name} did not reach the handler"


def raw(address, data, pieces=1):
    """Sends bytes as they are; gives the answer's status and body."""
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        reply = HTTPResponse(connection)
        reply.begin()
        return reply.status, reply.read()


def head(caller, *lines, version="1.1"):
    token = caller["Authorization"]
    start = [f"POST /predictions/doubler HTTP/{version}", "Host: x", f"Authorization: {token}"]
    return "\r\n".join([*start, "Content-Type: application/json", *lines, "", ""]).encode()


def test_http_1_0_is_answered(address, caller):
    request = head(caller, "Content-Length: 3", version="1.0") + b"1.5"
    assert raw(address, request) == (200, b'{"doubled": 3.0}')


def test_a_chunked_upload_is_answered(address, caller):
    body = b"1\r\n1\r\n2\r\n.5\r\n0\r\n\r\n"
    request = head(caller, "Transfer-Encoding: chunked") + body
    assert raw(address, request) == (200, b'{"doubled": 3.0}')


def test_an_upload_in_many_pieces_is_answered(address, caller):
    request = head(caller, "Content-Length: 3") + b"1.5"
    assert raw(address, request, pieces=40) == (200, b'{"doubled": 3.0}')


def test_expect_100_continue_is_answered(address, caller):
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(head(caller, "Content-Length: 3", "Expect: 100-continue"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"1.5")
        reply = HTTPResponse(connection)
        reply.begin()
        assert (reply.status, reply.read()) == (200, b'{"doubled": 3.0}')


def test_a_caller_who_hangs_up_harms_nobody(address, caller, workers):
    before = workers()
    where = urlsplit(address)

    def hang_up(_):
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            connection.sendall(head(caller, "Content-Length: 3") + b"1.5")

    def stay(_):
        return ask(address, caller, "doubler", JSON, b"1.5")[0]

    with ThreadPoolExecutor(16) as pool:
        hung = [pool.submit(hang_up, n) for n in range(40)]
        stayed = [pool.submit(stay, n) for n in range(40)]
        assert [future.result(60) for future in stayed] == [200] * 40
        for future in hung:
            future.result(60)
    assert workers() == before


def test_nothing_that_was_said_reaches_a_header_or_the_status_line(address, caller):
    where = urlsplit(address)
    connection = HTTPConnection(where.hostname, where.port, timeout=30)
    connection.request(
        "POST",
        "/predictions/doubler",
        body=b"13",
        headers={**caller, **JSON, "x-correlation-id": "a\x01b\xe9c".encode("latin-1")},
    )
    reply = connection.getresponse()
    assert (reply.status, reply.reason) == (500, "Internal Server Error")
    assert reply.headers["x-correlation-id"] == "abc"
    assert "x-evil" not in {name.lower() for name in reply.headers}
    connection.close()


LARGE = base64.b64encode(png(7000, 7000)).decode()
WIDE = base64.b64encode(png(8000, 1)).decode()
KILLERS = {
    "a tensor without values": (JSON, tensor_body([2**31, 0])),
    "many instances": ({**JSON, **GZIP}, zipped_instances(6_600_000)),
    "wide images": as_json({"instances": [WIDE] * 40}),
    "large images": as_json({"instances": [LARGE] * 250}),
}


@pytest.mark.parametrize("kind", KILLERS)
def test_a_small_body_kills_no_worker(address, caller, workers, kind):
    """Four at once with eight neighbours, which are answered; the worker's memory stays."""
    headers, body = KILLERS[kind]
    assert len(body) < 3_000_000
    before = workers()
    (pid,) = before["mnist"]
    reset_peak(pid)
    start = peak_of(pid)
    with ThreadPoolExecutor(12) as pool:
        hostile = [pool.submit(ask, address, caller, "mnist", headers, body) for _ in range(4)]
        good = [pool.submit(ask, address, caller, "mnist", {}, PNG) for _ in range(8)]
        assert [future.result()[0] for future in good] == [200] * 8
        statuses = {future.result()[0] for future in hostile}
    # The first two large images are within the limits.
    assert statuses == ({200} if kind == "large images" else {413})
    assert workers() == before
    # Two threads decode and resize one image each, which takes 250 MB.
    assert peak_of(pid) - start < 700_000_000


def test_fuzzed_bodies_never_harm_the_worker(address, caller, workers):
    """A short run; `make fuzz` sends 10,000. The workers' peak memory is part of the verdict."""
    count = int(os.environ.get("FUZZ", "300"))
    seeds = [encoded(seven((28, 40)), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")]
    before = workers()
    with ThreadPoolExecutor(8) as pool, requests.Session() as session:

        def send(fuzzed):
            reply = session.post(
                f"{address}/predictions/{fuzzed.model}",
                data=fuzzed.body,
                headers={**caller, **fuzzed.headers},
                timeout=60,
            )
            return fuzzed, reply

        warm_up = list(pool.map(send, bodies(count // 5, seeds, seed=0)))
        sizes = memory(before)
        for pid in sizes:
            reset_peak(pid)
        answers = warm_up + list(pool.map(send, bodies(count - count // 5, seeds, seed=1)))
    wrong = [
        (fuzzed.headers, fuzzed.body[:80], reply.text)
        for fuzzed, reply in answers
        if reply.status_code >= 500 and not fuzzed.may_fail
    ]
    assert not wrong
    mine = [reply for _, reply in answers if "x-model-name" in reply.headers]
    assert len(mine) > len(answers) / 2, "most should reach a handler"
    assert {reply.status_code for _, reply in answers} >= {200, 400, 415}
    assert workers() == before
    peaks = {pid: peak_of(pid) - size for pid, size in sizes.items()}
    print("peak above the size after warm-up:", {p: f"{n / 1e6:.0f} MB" for p, n in peaks.items()})
    assert max(peaks.values()) < 1_000_000_000
    if count >= 10_000:  # in a short run an allocator has not settled
        grown = {pid: size / sizes[pid] - 1 for pid, size in memory(before).items()}
        print("growth of RSS after warm-up:", {pid: f"{part:.2%}" for pid, part in grown.items()})
        assert max(grown.values()) < 0.05


def memory(workers):
    """Resident bytes by pid."""
    return {pid: psutil.Process(pid).memory_info().rss for pids in workers.values() for pid in pids}
