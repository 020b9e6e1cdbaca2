"""`vestal run` gives the same responses as a server: predictions, forms, refused requests."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from fuzzing import bodies
from request_bodies import PNG, REQUESTS, as_json, multipart
from same_answers import assert_same, send_to_handler, send_to_server
from serving import archive
from test_any_body import project as project  # a fixture: mnist and the doubler

from vestal.demo import save_test_images
from vestal.fleet.server import Server
from vestal.inprocess import LoadedArchive
from vestal.inprocess.frontend import Frontend
from vestal.mar.sample import read_sample

SEED = 20
HOSTILE = 50
MODELS = ("mnist", "doubler", "receiver", "broken", "late", "later")
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
RECORDED = json.loads((Path(__file__).parents[1] / "forms" / "recorded.json").read_text("utf-8"))
PARTS = (
    b'--b\r\nContent-Disposition: form-data; name="a"; filename="x.png"\r\n'
    b"Content-Type: image/png\r\n\r\nDATA\r\n"
    b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n--b--\r\n'
)
pytestmark = pytest.mark.slow

# Returns the parts and headers of each request.
RECEIVER = """
import base64
import json

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        parts = {name: base64.b64encode(bytes(value)).decode() for name, value in row.items()}
        headers = context.get_all_request_header(index)
        answers.append(json.dumps({"parts": parts, "headers": headers}).encode())
    return answers
"""
BROKEN = """
def handle(data, context):
    if data is None:
        return None
    raise ValueError("whole batch")
"""
# Imports a module and opens a file of its folder during a prediction.
LATE = """
from pathlib import Path

WORDS = Path("vocab.txt").read_text()

def handle(data, context):
    if data is None:
        return None
    import tools
    return [tools.NAME + WORDS + Path("vocab.txt").read_text() for _ in data]
"""
# Forms with wrong headers or written by hand; tests/forms has those that clients send.
BY_HAND = {
    "no boundary": ({"Content-Type": "multipart/form-data"}, PARTS),
    "quoted boundary": ({"Content-Type": 'multipart/form-data; boundary="b"'}, PARTS),
    "boundary after charset": (
        {"Content-Type": "multipart/form-data; charset=utf-8; boundary=b"},
        PARTS,
    ),
    "mixed": ({"Content-Type": "multipart/mixed; boundary=b"}, PARTS),
    "epilogue": (FORM, PARTS + b"epilogue"),
    "cut in a part": (FORM, PARTS[:-8]),
    "no name": (FORM, PARTS.replace(b'name="a"; ', b"")),
    "empty name": (FORM, PARTS.replace(b'name="a"', b'name=""')),
    "bare name": (FORM, PARTS.replace(b'name="a"', b"name=a")),
    "no type": (FORM, PARTS.replace(b"Content-Type: image/png\r\n", b"")),
    "no parts": (FORM, b""),
    **{
        f"form {body!r}": (URLENCODED, body)
        for body in (
            *(b"", b"a", b"a=1", b"a=1&b", b"a=1&&b=2", b"&a=1", b"=1", b"a=1&a=2", b"a=%"),
            *(b"%zz=1", b"a=1\r\nb=2", b"a=1\r", b"a=\xff", b"\xff=1", b"a+b=c+d", b"a=%zz"),
            *(b"a==1", b"a%00=1", b" a =1", b"a\tb\nc=1", b"a=", b"a=caf%C3%A9", b"%20=1"),
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def served(project):
    for name, handler in (("receiver", RECEIVER), ("broken", BROKEN)):
        archive(project.model_store, name, handler)
    for name in ("late", "later"):
        beside = {"tools.py": f"NAME = {name!r}\n", "vocab.txt": f"words of {name}"}
        archive(project.model_store, name, LATE, beside=beside)
    named = [f"{name}={name}-1.0.mar" for name in MODELS]
    with Server(project, named, port=0) as running:
        keys = json.loads(Path(running.ready.key_file).read_text())
        caller = {"Authorization": f"Bearer {keys['inference']['key']}"}

        def send(model, headers, body, kind="predictions"):
            address = f"{running.ready.inference}/{kind}/{model}"
            return send_to_server(address, {**caller, **headers}, body)

        yield send


@pytest.fixture(scope="module")
def local(project):
    frontend = Frontend.of(project)
    loaded = {}
    try:
        for name in MODELS:
            loaded[name] = LoadedArchive(project.model_store / f"{name}-1.0.mar")

        def send(model, headers, body, *, explain=False):
            return send_to_handler(frontend, loaded[model], headers, body, explain=explain)

        yield send
    finally:
        for each in loaded.values():
            each.close()


def test_the_sample_and_every_format_of_a_body(project, served, local):
    sample = read_sample(project.model_store / "mnist-1.0.mar")
    cases = {"sample": ("mnist", {"Content-Type": sample.content_type}, sample.input), **REQUESTS}
    for name, (model, headers, body) in cases.items():
        ours = local(model, headers, body)
        assert ours.reached, name
        assert_same(name, ours, served(model, headers, body))


def test_hostile_bodies(served, local, trained_project):
    seeds = [image.file.read_bytes() for image in save_test_images(trained_project)[:8]]
    reached = 0
    for number, each in enumerate(bodies(HOSTILE, seeds, SEED)):
        if each.may_fail and each.headers == FORM:  # a broken form: docs/guides/run-and-compare.md
            continue
        ours = local(each.model, each.headers, each.body)
        reached += ours.reached
        assert_same(number, ours, served(each.model, each.headers, each.body))
    assert reached > HOSTILE / 2


def test_forms_give_the_same_parts_as_on_the_server(served, local):
    """Parts byte by byte; for requests that do not reach the handler, status and type."""
    cases = {
        name: ({"Content-Type": form["content_type"]} if form["content_type"] else {}, body)
        for name, form in RECORDED["bodies"].items()
        for body in [base64.b64decode(form["body"])]
    }
    refused = []
    for name, (headers, body) in {**BY_HAND, **cases}.items():
        ours, theirs = local("receiver", headers, body), served("receiver", headers, body)
        assert ours.status == theirs[0], (name, body, theirs)
        if not ours.reached:
            refused.append(name)
            assert_same(name, ours, theirs)
            continue
        here, there = ours.json(), json.loads(theirs[2])
        assert here["parts"] == there["parts"], (name, body)
        # On the server there are also headers that requests adds.
        assert here["headers"].items() <= there["headers"].items(), (name, body)
    assert len(refused) > 5
    assert [name for name in refused if name in cases] == ["curl --data-binary image"]


def test_a_handler_that_fails_whole(served, local):
    """The response is the frontend's, and has the same bytes here."""
    ours, theirs = local("broken", {}, b"x"), served("broken", {}, b"x")
    assert ours.reached
    assert (ours.status, ours.body) == (theirs[0], theirs[2])
    assert ours.headers["content-type"] == theirs[1]["content-type"]


def test_late_imports_and_files_of_the_archives_folder(served, local):
    for name in ("late", "later", "late"):
        ours, theirs = local(name, {}, b"x"), served(name, {}, b"x")
        assert ours.body == theirs[2] == f"{name}words of {name}words of {name}".encode()


def test_too_large_a_body(served, local):
    body = bytes(20_000_001)
    ours = local("mnist", {}, body)
    assert not ours.reached
    assert (ours.status, ours.body) == served("mnist", {}, body)[::2] == (413, b"")


def test_explanations(served, local):
    for model, (headers, body) in {
        "mnist": ({"Content-Type": "image/png"}, PNG),
        "doubler": as_json(13),
        "receiver": multipart(any=("x.png", "image/png", PNG)),
    }.items():
        ours = local(model, headers, body, explain=True)
        theirs = served(model, headers, body, "explanations")
        if model == "receiver":
            assert ours.json()["parts"] == json.loads(theirs[2])["parts"]
            assert ours.json()["headers"]["explain"] == "True"
        else:
            assert_same(model, ours, theirs)
