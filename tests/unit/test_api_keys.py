"""The file of API keys: what is valid, and errors with line and client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vestal.errors import UsageError
from vestal.fleet.api_keys import read_clients
from vestal.gateway.clients import ApiClient

KEY = "0123456789abcdef"


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        file = tmp_path / "keys.yaml"
        file.touch(mode=0o600)
        file.write_text(text)
        with pytest.raises(UsageError) as error:
            read_clients(file)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return check


def test_clients_have_a_key_and_may_be_limited_to_some_models(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.touch(mode=0o640)
    file.write_text(f"shop: {{key: {KEY}}}\nbatch:\n  key: {KEY}x\n  models: [mnist, gpt2]\n")
    shop, batch = read_clients(file)
    assert shop == ApiClient("shop", KEY)
    assert batch == ApiClient("batch", f"{KEY}x", frozenset({"mnist", "gpt2"}))
    assert KEY not in repr(shop)


def test_all_problems_are_listed_without_the_keys(refuse: Callable[[str], list[str]]) -> None:
    text = f"""a: {{key: {KEY}}}
b: {{key: {KEY}}}
c: secret-of-c-in-the-wrong-place
d: {{models: [m], keys: x}}
e: {{key: "secret of e with spaces"}}
f: {{key: {KEY}f, models: mnist}}
"g h": {{key: {KEY}g}}
"""
    lines = refuse(text)
    assert [line.partition("(")[0].strip() for line in lines] == [
        "keys.yaml:2: b.key: a has the same key",
        "keys.yaml:3: c: expected `{key: ..., models: [...]}`; `models` is optional",
        "keys.yaml:4: d.keys: unknown key; expected one of key, models",
        "keys.yaml:4: d.key: expected 16 to 500 characters without spaces",
        "keys.yaml:5: e.key: expected 16 to 500 characters without spaces",
        "keys.yaml:6: f.models: expected a list of names of models",
        "keys.yaml:7: g h: expected a name of letters, digits, `_`, `-` and `.`",
    ]
    assert "secret" not in "".join(lines).replace("import secrets", "").replace("secrets.", "")


@pytest.mark.parametrize("text", ["", "- a", "shop"])
def test_a_file_without_clients_says_what_is_expected(
    text: str, refuse: Callable[[str], list[str]]
) -> None:
    assert refuse(text) == [
        "keys.yaml:1: expected a name and a key for each client, such as `shop: {key: ...}`"
    ]


def test_a_file_that_every_user_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"shop: {{key: {KEY}}}")
    file.chmod(0o604)
    with pytest.raises(UsageError, match=r"readable for every user: run `chmod 600 .*keys\.yaml`"):
        read_clients(file)
