"""Record the form bodies that curl, Chromium, Node, requests and httpx send.

    .venv/bin/python tests/forms/record.py [PATH_OF_CHROMIUM] > tests/forms/recorded.json

The boundary of each body is random, so a new recording changes the whole file.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import httpx
import requests

PNG = b"\x89PNG\r\n\x1a\n--\x00\xff\n--x\r\r\n%zz+&=;\x00"
FIELDS = {
    "text": "café ☃ a+b=c&d",
    "lines": "one\r\ntwo",
    "empty": "",
    "input:0": "1.5",
    "x[]": "2",
    "a b;c,d=e": "special",
    "é": "accent",
    'quo"te': "quote",
}
FILES = {
    "image": ("seven.png", PNG, "image/png"),
    "plain": ("café.txt", "ä\n".encode(), "text/plain"),
    "json": ("a.json", b'{"data": 1}', "application/json"),
    "typed": ("b;c.json", b'{"data": 2}', "application/json; charset=utf-8"),
    "bytes": ('quo"te.bin', b"\r\n", "application/octet-stream"),
    "nothing": ("empty.png", b"", "image/png"),
}
# A browser: FormData in a script, and forms that are submitted.
PAGE = """
<form id="multipart" method="post" enctype="multipart/form-data" target="a"></form>
<form id="urlencoded" method="post" target="b"></form>
<form id="plain" method="post" enctype="text/plain" target="c"></form>
<iframe name="a"></iframe><iframe name="b"></iframe><iframe name="c"></iframe>
<script>FILL
for (const form of document.forms) {
  form.action = "/chromium form " + form.id
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("textarea")
    input.name = name
    input.value = value
    form.append(input)
  }
  const file = document.createElement("input")
  file.type = "file"
  file.name = "unchosen"
  form.append(file)
  form.submit()
}
send("chromium")
</script>
"""
FILL = """
const fields = FIELDS
const files = FILES
async function send(client) {
  const data = new FormData()
  for (const [name, value] of Object.entries(fields)) data.append(name, value)
  for (const [name, [file, base64, type]] of Object.entries(files)) {
    const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0))
    data.append(name, new File([bytes], file, {type}))
  }
  data.append("blob", new Blob(["no name"]))
  const post = (name, body) => fetch(`${ORIGIN}/${client} ${name}`, {method: "POST", body})
  await post("FormData", data)
  await post("URLSearchParams", new URLSearchParams(fields))
}
"""


class Recorder(BaseHTTPRequestHandler):
    recorded: ClassVar[dict[str, dict[str, str]]] = {}

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(PAGE.replace("FILL", script("")).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.recorded[unquote(self.path[1:])] = {
            "content_type": self.headers.get("Content-Type", ""),
            "body": base64.b64encode(body).decode(),
        }
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def script(origin: str) -> str:
    files = {
        name: (file, base64.b64encode(data).decode(), kind)
        for name, (file, data, kind) in FILES.items()
    }
    filled = FILL.replace("FIELDS", json.dumps(FIELDS)).replace("FILES", json.dumps(files))
    return filled.replace("ORIGIN", json.dumps(origin))


def record(address: str, folder: Path, chromium: str | None) -> None:
    requests.post(f"{address}/requests multipart", data=FIELDS, files=FILES, timeout=9)
    nameless: dict[str, tuple[None, str] | bytes] = {"field": (None, "text"), "bytes": b"DATA"}
    requests.post(f"{address}/requests without file names", files=nameless, timeout=9)
    requests.post(f"{address}/requests urlencoded", data=FIELDS, timeout=9)
    httpx.post(f"{address}/httpx multipart", data=FIELDS, files=FILES)
    httpx.post(f"{address}/httpx without file names", files={"bytes": b"DATA"})
    httpx.post(f"{address}/httpx urlencoded", data=FIELDS)
    for file, data, _ in FILES.values():
        (folder / file).write_bytes(data)

    def curl(name: str, *arguments: str) -> None:
        url = f"{address}/curl {name}".replace(" ", "%20")
        subprocess.run(["curl", "-sS", *arguments, url], cwd=folder, check=True)

    parts = [f"{name}={value}" for name, value in FIELDS.items() if "=" not in name]
    parts += ["image=@seven.png", "plain=@café.txt", "json=@a.json;type=application/json"]
    parts += ["typed=@a.json;type=application/json; charset=utf-8", "typed field={};type=a/b"]
    parts += ["renamed=@seven.png;filename=x;y.png", "content=<a.json"]
    curl("multipart", *(word for part in parts for word in ("-F", part)))
    curl("two files of one name", "-F", "a=@seven.png", "-F", "a=@a.json")
    encoded = (f"{name}={value}" for name, value in FIELDS.items() if "=" not in name)
    curl("urlencoded", *(word for part in encoded for word in ("--data-urlencode", part)))
    curl("-d fields", "-d", "a=1", "-d", "b=c d", "-d", "c")
    curl("-d number", "-d", "1.5")
    curl("-d JSON", "-d", '{"data": [1, 2]}')
    curl("-d JSON with text", "-d", '{"text": "1 + 1 = 2 & more"}')
    curl("--data-binary JSON", "--data-binary", '{\n  "text": "a=b\nc"\n}')
    curl("--data-binary image", "--data-binary", "@seven.png")
    curl("-T file", "-T", "seven.png", "-X", "POST")
    curl("own type without boundary", "-H", "Content-Type: multipart/form-data", "-d", "a=1")
    node = f"{script(address)}\nsend('node')"
    subprocess.run(["node", "--input-type=module", "-e", node], check=True)
    if chromium:
        options = ["--no-sandbox", "--virtual-time-budget=5000", f"--user-data-dir={folder}/p"]
        subprocess.run(
            [chromium, *options, "--dump-dom", f"{address}/"], check=True, stdout=sys.stderr
        )


def versions(chromium: str | None) -> dict[str, str]:
    def version(program: str) -> str:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0]

    found = {"requests": requests.__version__, "httpx": httpx.__version__}
    programs = ["curl", "node", *([chromium] if chromium else [])]
    return found | {Path(program).name: version(program) for program in programs}


def main(chromium: str | None) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        record(f"http://127.0.0.1:{server.server_port}", Path(folder), chromium)
    server.shutdown()
    facts = {"versions": versions(chromium), "bodies": Recorder.recorded}
    print(json.dumps(facts, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(shutil.which(sys.argv[1]) if len(sys.argv) > 1 else None)
