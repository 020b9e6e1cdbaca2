"""The zoo's models with trained weights, from packages of the Python index."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torchvision.transforms import v2

from vestal.archive.pack import pack
from vestal.errors import VestalError
from vestal.fleet.server import Server
from vestal.inprocess import Input, LoadedArchive
from vestal.project import Project
from vestal.runs import Run
from vestal.weights.fetch import fetch, package_of
from vestal_handlers.engines import eager
from vestal_handlers.model_files import load_module

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("real"))


def archive_of(project, name):
    """Fetch and pack a model. Without an index, only CI fails."""
    try:
        fetch(project, name, package_of(project, name))
    except VestalError as error:
        if "cannot be downloaded" in str(error) and not os.environ.get("CI"):
            pytest.skip(str(error))
        raise
    return pack(project, name, version="1.0").archive


def text(loaded, value):
    (response,) = loaded.predict([Input.raw(value.encode(), "text/plain")])
    return response.json()


def test_photographs_are_classified_as_by_the_training(project):
    """With the mean and deviation of torchvision's models, the flower is a lampshade."""
    from sklearn.datasets import load_sample_image

    photos = {
        name: Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")
    }
    found = {}
    with LoadedArchive(archive_of(project, "imagenet")) as loaded:
        for name, photo in photos.items():
            stream = io.BytesIO()
            photo.save(stream, "PNG")
            (response,) = loaded.predict([Input.raw(stream.getvalue(), "image/png")])
            found[name] = response.json()["label"]
    assert found == {"china.jpg": "palace", "flower.jpg": "daisy"}
    run = project.runs / "imagenet" / "1"
    module = load_module(run, "model").build()
    eager.fill(module, eager.read(run / "model.pth"), "model.pth")
    steps = load_module(run, "transforms").transform.steps[:-1]
    usual = v2.Compose([*steps, v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    with torch.inference_mode():
        index = module.eval()(usual(v2.functional.pil_to_tensor(photos["flower.jpg"]))[None])
    labels = Run.read(run).labels
    assert labels is not None
    assert labels[int(index.argmax())] == "lampshade"


def test_embeddings_are_those_of_the_sentence_transformer(project):
    sentences = ["A cat sleeps on the sofa.", "A kitten naps on a couch.", "The train is late."]
    with LoadedArchive(archive_of(project, "embedder")) as loaded:
        ours = torch.tensor([text(loaded, sentence)["embedding"] for sentence in sentences])
        (long,) = loaded.predict([Input.raw(b"word " * 300, "text/plain")])
    assert (long.status, "at most 256" in long.json()["message"]) == (413, True)
    folder = project.runs / "embedder" / "1"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    for sentence, embedding in zip(sentences, ours, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        assert torch.allclose(embedding, expected, atol=1e-5)
    assert ours[0] @ ours[1] > 0.7 > 0.2 > ours[0] @ ours[2]


PAIRS = [
    ("A cat sleeps on the sofa.", "A kitten naps on a couch."),
    ("A cat sleeps on the sofa.", "The dog barks in the garden."),
    ("The train is late.", "The train has not arrived yet."),
    ("The train is late.", "I am never late for lunch."),
    ("How do I reset my password?", "I forgot my password."),
    ("How do I reset my password?", "How do I delete my account?"),
    ("The bank raised its interest rates.", "Borrowing has become more expensive."),
    ("The bank raised its interest rates.", "We sat on the bank of the river."),
    ("He plays the violin.", "He is a musician."),
    ("He plays the violin.", "She plays football."),
    ("It rains heavily.", "The weather is bad."),
    ("It rains heavily.", "The sun shines."),
    ("This film is wonderful.", "This film is terrible."),
    ("This film is wonderful.", "I enjoyed the movie a lot."),
    ("Water boils at 100 degrees.", "At 100 degrees Celsius, water turns into steam."),
    ("Water boils at 100 degrees.", "The soup is cold."),
    ("Two men are cooking.", "Three women are cooking."),
    ("Two men are cooking.", "The economy is growing."),
    ("Berlin is the capital of Germany.", "Germany's capital is Berlin."),
    ("Berlin is the capital of Germany.", "Paris is the capital of France."),
]
SENTENCE_TRANSFORMERS = """
import json, sys
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
print(json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))
"""


def test_pairs_of_sentences_rank_as_by_sentence_transformers(project, tmp_path):
    archive, sentences = archive_of(project, "embedder"), [each for pair in PAIRS for each in pair]
    command = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps"]
    target = ["--python", sys.executable, "--target", tmp_path, "sentence-transformers==5.1.2"]
    subprocess.run([*command, *target], check=True)
    with LoadedArchive(archive) as loaded:
        ours = torch.tensor([text(loaded, each)["embedding"] for each in sentences])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SENTENCE_TRANSFORMERS,
            project.runs / "embedder" / "1",
            json.dumps(sentences),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = torch.tensor(json.loads(done.stdout))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert ranking(ours) == ranking(theirs)
    most = {frozenset(PAIRS[index]) for index in ranking(ours)[-3:]}
    assert frozenset(PAIRS[-2]) in most
    assert frozenset(PAIRS[-3]) not in most


def ranking(embeddings):
    """The numbers of the pairs, by the cosine of their embeddings."""
    return (embeddings[::2] * embeddings[1::2]).sum(1).argsort().tolist()


def test_the_chat_model_answers(project):
    archive = archive_of(project, "chat")
    question = "What is the capital of France?"
    messages = [{"role": "user", "content": question}]
    folder = project.runs / "chat" / "1"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompt, do_sample=False, max_new_tokens=64)[0]
    expected = tokenizer.decode(tokens[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in expected
    with Server(project, [archive.name], port=0, timeout=300):
        done = subprocess.run(
            [sys.executable, "-m", "vestal", "predict", "chat", "--text", question],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
