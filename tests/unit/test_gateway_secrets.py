"""Keys and certificates are read again when their files change; mistakes change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal.fleet.gateway_secrets import SecretFiles
from vestal.gateway.clients import ApiClient
from vestal.gateway.settings import Gateway, Tls

KEY = "0123456789abcdef"


def write_keys(file: Path, text: str) -> Gateway:
    file.touch(mode=0o600)
    file.write_text(text)
    return Gateway(api_keys=str(file))


def test_without_files_there_are_no_secrets() -> None:
    secrets = SecretFiles(None, print).read(Gateway())
    assert (secrets.token, secrets.clients, secrets.certificate) == (None, None, None)


def test_the_token_is_that_of_the_key_file_as_soon_as_it_exists(tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    secrets = SecretFiles(file, print)
    assert secrets.read(Gateway()).token == "unknown"
    file.write_text(json.dumps({"inference": {"key": "first"}}))
    assert secrets.read(Gateway()).token == "first"
    file.write_text(json.dumps({"inference": {"key": "second key"[:6]}}))
    assert secrets.read(Gateway()).token == "second"
    file.unlink()  # TorchServe starts again
    assert secrets.read(Gateway()).token == "second"


def test_keys_are_read_again_and_a_mistake_is_reported_once(tmp_path: Path) -> None:
    complaints: list[str] = []
    secrets = SecretFiles(None, complaints.append)
    settings = write_keys(tmp_path / "keys.yaml", f"shop: {{key: {KEY}}}")
    shop = (ApiClient("shop", KEY),)
    assert secrets.read(settings).clients == shop
    write_keys(tmp_path / "keys.yaml", "shop: {key: short}")
    assert secrets.read(settings).clients == secrets.read(settings).clients == shop
    assert len(complaints) == 1
    assert "the gateway continues with the previous content" in str(secrets.problem)
    write_keys(tmp_path / "keys.yaml", f"shop: {{key: {KEY}}}")
    assert secrets.read(settings).clients == shop
    assert secrets.problem is None


def test_a_file_that_was_never_valid_is_an_error(tmp_path: Path) -> None:
    secrets = SecretFiles(None, print)
    with pytest.raises(VestalError, match="there is no file"):
        secrets.read(Gateway(api_keys=str(tmp_path / "none.yaml")))
    with pytest.raises(VestalError, match="No such file"):
        secrets.read(Gateway(tls=Tls(certificate=str(tmp_path / "c"), key=str(tmp_path / "k"))))


def test_a_certificate_is_read_again(tmp_path: Path) -> None:
    files = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    for file in files:
        file.write_text("first")
    settings = Gateway(tls=Tls(certificate=str(files[0]), key=str(files[1])))
    secrets = SecretFiles(None, print)
    assert secrets.read(settings).certificate == "first"
    files[0].write_text("second one")
    read = secrets.read(settings)
    assert (read.certificate, read.private_key) == ("second one", "first")
