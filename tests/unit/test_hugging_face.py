"""Folders of Hugging Face: their task, weights in other forms, adapters, and mistakes."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
import transformers
from pets_weights import Evil
from pretrained_folders import FOLDERS, TEXTS
from safetensors.torch import load_file

from vestal.archive.pack import pack
from vestal.archive.runnable import open_model
from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights.hugging_face import recognize
from vestal.weights.hugging_face_copy import copy_folder

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    made = {}

    def get(name):
        if name not in made:
            made[name] = root / name.replace(" ", "-")
            FOLDERS[name](made[name])
        return made[name]

    return get


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


def probability(loaded, text=TEXTS[0]):
    (response,) = loaded.predict([Input.raw(text.encode(), "text/plain")])
    assert response.status == 200, response.body
    return response.json()["probability"]


def expected(folder, text=TEXTS[0]):
    (best,) = transformers.pipeline("text-classification", model=str(folder), device="cpu")(text)
    return best["score"]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("text-classification", "text-classification"),
        ("several labels", "text-classification"),
        ("token-classification", "token-classification"),
        ("fill-mask", "fill-mask"),
        ("question-answering", "question-answering"),
        ("feature-extraction", "feature-extraction"),
        ("summarization", "text2text-generation"),
        ("text2text-generation", "text2text-generation"),
        ("image-classification", "image-classification"),
        ("image-feature-extraction", "image-feature-extraction"),
    ],
)
def test_the_architecture_names_the_task(folders, name, task):
    assert recognize(folders(name)) == task


def test_a_folder_is_packed_without_a_model_folder(folders, project):
    folder = folders("text-classification")
    packed = pack(project, "mood", version="1.0", weights=folder)
    assert (packed.task, packed.no_sample) == ("text-classification", None)
    with LoadedArchive(packed.archive) as loaded:
        assert probability(loaded) == pytest.approx(expected(folder), abs=1e-5)
    assert not project.models.exists()
    again = pack(project, "mood", version="1.0", weights=folder)
    assert (again.new, again.sha256) == (False, packed.sha256)


def test_a_new_model_folder_has_a_handler_to_change(folders, project):
    folder = folders("text-classification")
    created = create(project, "mood", "transformers", weights=folder)
    assert {"handler.py", "model-config.yaml", "README.md"} <= set(created.files)
    assert created.next_command.endswith(f"--weights {folder}")
    handler = created.folder / "handler.py"
    change = '    def encode(self, output, instance):\n        return {"label": "mine"}\n'
    handler.write_text(f"{handler.read_text()}\n{change}")
    with open_model(project, "mood", weights=folder) as loaded:
        (response,) = loaded.predict([Input.raw(b"a", "text/plain")])
    assert response.json() == {"label": "mine"}


def shards(folder, model, tokenizer):
    model.save_pretrained(folder, max_shard_size="20kB")


def pickled(folder, model, tokenizer):
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def half(folder, model, tokenizer):
    model.half().save_pretrained(folder)


def old_tokenizer(folder, model, tokenizer):
    model.save_pretrained(folder)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("save", [shards, pickled, half, old_tokenizer])
def test_other_forms_of_a_folder(folders, project, tmp_path, save):
    source, folder = folders("text-classification"), tmp_path / "other"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    save(folder, model, tokenizer)
    with open_model(project, "mood", weights=folder) as loaded:
        close = 1e-2 if save is half else 1e-5
        assert probability(loaded) == pytest.approx(expected(source), abs=close)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_is_merged_into_its_base(folders, project, tmp_path):
    from peft import LoraConfig, get_peft_model

    base, folder = folders("text-classification"), tmp_path / "adapter"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    adapted = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_lin"], init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(folder)
    inputs = transformers.AutoTokenizer.from_pretrained(base)(TEXTS[0], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        theirs = adapted(**inputs).logits.softmax(-1).max().item()
    packed = pack(project, "mood", version="1.0", weights=folder, base=base)
    with LoadedArchive(packed.archive) as loaded:
        assert probability(loaded) == pytest.approx(theirs, abs=1e-5)
    with pytest.raises(UsageError, match=r"is an adapter: pass the folder .* with --base FOLDER"):
        pack(project, "mood", version="2.0", weights=folder)
    with pytest.raises(UsageError, match="is not an adapter, so it has no --base"):
        pack(project, "mood", version="2.0", weights=base, base=base)


def test_unsafe_pickles_are_refused_and_not_run(folders, project, tmp_path):
    folder = shutil.copytree(folders("text-classification"), tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(VestalError, match="cannot be loaded"):
        pack(project, "mood", version="1.0", weights=folder)
    assert not (tmp_path / "ran").exists()


def changed(folder, tmp_path, **config):
    copy = shutil.copytree(folder, tmp_path / "changed")
    settings = {**json.loads((copy / "config.json").read_text()), **config}
    (copy / "config.json").write_text(json.dumps(settings))
    return copy


def test_mistakes_get_a_sentence(folders, project, tmp_path):
    good = folders("text-classification")
    bare = changed(good, tmp_path, architectures=["Wav2Vec2ForCTC"])
    with pytest.raises(UsageError, match="has the architecture Wav2Vec2ForCTC, which has none of"):
        pack(project, "m", version="1.0", weights=bare)
    with pytest.raises(UsageError, match=r"unknown task 'text-clasification' .* expected"):
        pack(project, "m", version="1.0", weights=good, task="text-clasification")
    with pytest.raises(UsageError, match=r"unknown model 'm'"):
        pack(project, "m", version="1.0", weights=tmp_path)
    with pytest.raises(UsageError, match="--task is for a Hugging Face folder without a model"):
        pack(project, "mnist", version="1.0", weights=good, task="fill-mask")
    unknown = changed(good, tmp_path / "unknown", model_type="nothing")
    with pytest.raises(VestalError, match=r"config\.json cannot be read by transformers: The"):
        pack(project, "m", version="1.0", weights=unknown)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer\.json, the tokenizer that fill-mask"):
        pack(project, "m", version="1.0", weights=bare, task="fill-mask")
    with pytest.raises(VestalError, match=r"no label for entailment, only negative, neutral"):
        pack(project, "m", version="1.0", weights=good, task="zero-shot-classification")
    with pytest.raises(UsageError, match=r"--task transformers needs --weights FOLDER"):
        create(project, "m", "transformers")


def test_code_in_a_folder_is_neither_copied_nor_run(folders, tmp_path):
    folder = changed(folders("text-classification"), tmp_path, auto_map={"AutoConfig": "evil.Evil"})
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    target = tmp_path / "target"
    target.mkdir()
    assert copy_folder(folder, target) == "model.safetensors"
    assert not (target / "evil.py").exists()
    assert not ran.exists()
