"""What identifies an artifact, also one of several files."""

from __future__ import annotations

import hashlib
import json
import subprocess

from vestal_handlers.machine import sha256_of


def sha256sum(folder, *names):
    """What a person would type: `sha256sum FILES | sha256sum`."""
    printed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    return hashlib.sha256(printed.stdout).hexdigest()


def test_of_a_file_it_is_that_of_its_bytes(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    assert sha256_of(tmp_path / "model.pt") == hashlib.sha256(b"weights").hexdigest()


def test_of_a_folder_it_is_that_of_all_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deep" / "vocabulary.txt").write_text("a b")
    names = ("config.json", "deep/vocabulary.txt", "model.safetensors")
    before = sha256_of(tmp_path)
    assert before == sha256sum(tmp_path, *names)
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    assert sha256_of(tmp_path) != before


def test_of_an_index_it_is_that_of_its_shards_too(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (tmp_path / "1.safetensors").write_bytes(b"one")
    (tmp_path / "2.safetensors").write_bytes(b"two")
    (tmp_path / "README.md").write_text("no weights")
    names = ("1.safetensors", "2.safetensors", index.name)
    assert sha256_of(index) == sha256sum(tmp_path, *names)
    # a folder with an index is not counted twice
    assert sha256_of(tmp_path) == sha256sum(tmp_path, *names[:2], "README.md", index.name)
