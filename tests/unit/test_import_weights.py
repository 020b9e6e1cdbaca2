"""Weights from elsewhere: every usual format is taken, nothing but tensors is unpickled."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict

import lightning
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save_file
from torch import nn

from vestal.archive.pack import pack
from vestal.cli.pack import _read_labels
from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.mar.sample import read_sample
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights import saving
from vestal.weights.checkpoints import unwrap_keys
from vestal.weights.import_weights import import_weights
from vestal_handlers.model_files import load_module

LABELS = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    create(made, "pets", "image_classifier")
    return made


@pytest.fixture(scope="module")
def module(project):
    torch.manual_seed(0)
    return load_module(find_model(project, "pets"), "model").build(len(LABELS)).eval()


@pytest.fixture
def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def brought(project, file, tmp_path, labels=LABELS):
    """The state_dict of the run that the file becomes."""
    run = import_weights(project, "pets", str(file), tmp_path / "run", labels)
    return torch.load(run.folder / run.artifacts[0], weights_only=True)


def same(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def saved(tmp_path, value, name="weights.pth"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "lr": 0.1},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "a name beside it": lambda state: {"model": "resnet", "weights": state},
    "twice inside": lambda state: {"model": {"state_dict": state}},
    "a name of its own": lambda state: {"generator": state, "step": 7},
    "DistributedDataParallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "torch.compile": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "both": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "a compiled part": lambda state: {
        k.replace("features.", "features._orig_mod."): v for k, v in state.items()
    },
    "an attribute of any name": lambda state: {f"backbone.{k}": v for k, v in state.items()},
    "no counters of batches": lambda state: {
        k: v for k, v in state.items() if "num_batches" not in k
    },
    "half precision": lambda state: {
        k: v.half() if v.is_floating_point() else v for k, v in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_is_found_in_what_people_save(wrapping, project, state, tmp_path):
    found = brought(project, saved(tmp_path, WRAPPINGS[wrapping](state)), tmp_path)
    if wrapping == "half precision":
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    assert same(found, state)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.ckpt", "weights"])
def test_the_suffix_of_a_state_dict_is_free(name, project, state, tmp_path):
    assert same(brought(project, saved(tmp_path, state, name), tmp_path), state)


def test_the_old_format_of_torch_save_is_read(project, state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(brought(project, tmp_path / "old.pth", tmp_path), state)


def test_a_checkpoint_of_lightning_itself_is_read(project, module, state, tmp_path):
    class Task(lightning.LightningModule):
        def __init__(self, net, rate):
            super().__init__()
            self.save_hyperparameters(ignore=["net"])
            self.net = net

        def training_step(self, batch, index):
            return self.net(batch[0]).sum() * 0

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.0)

    trainer = lightning.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = torch.utils.data.DataLoader([(torch.zeros(3, 16, 16),)], num_workers=0)
    task = Task(module, rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints are not about the checkpoint
        trainer.fit(task, batches)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    now = {k.removeprefix("net."): v for k, v in task.state_dict().items()}
    module.load_state_dict(state)
    assert same(brought(project, tmp_path / "last.ckpt", tmp_path), now)


@dataclasses.dataclass
class Config:
    width: int = 3
    mode: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    width: int = 3


class Mode(enum.Enum):
    FAST = 1


class Settings(dict):
    """As EasyDict, CfgNode and AttributeDict are."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.frozen = True


PLAIN = {
    "argparse": argparse.Namespace(lr=0.1, device=torch.device("cpu"), data=pathlib.Path("/data")),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "dataclass": Config(mode=Mode.FAST),
    "dataclass with slots": [Slots()],
    "enum": {Mode.FAST: 1},
    "dict of its own class": Settings(a=Settings(b=1)),
    "numpy": {"best": np.float64(0.9), "epoch": np.int64(3), "curve": np.arange(3.0)},
    "numpy dtype": [np.dtype("float32"), np.float32],
    "numpy text": np.array(["a", "b"]),
    "paths": [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("C:/a")],
    "torch": [torch.Size([1]), torch.float16, torch.device("cpu")],
    "collections": [OrderedDict(a=1), defaultdict(list, a=[1]), {1, 2}, frozenset((1,))],
    "time": [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "decimal": decimal.Decimal("0.1"),
    "a loss": {"hyper_parameters": {"criterion": nn.CrossEntropyLoss(torch.ones(3))}},
}


# Torch's old format holds the source of modules, which torch does not read back.
IN_BOTH_FORMATS = [kind for kind in PLAIN if kind != "a loss"]


@pytest.mark.parametrize(
    ("kind", "new"), [*((k, True) for k in PLAIN), *((k, False) for k in IN_BOTH_FORMATS)]
)
def test_plain_data_beside_the_weights_is_no_hindrance(kind, new, project, state, tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"args": PLAIN[kind], "model": state}, file, _use_new_zipfile_serialization=new)
    assert same(brought(project, file, tmp_path), state)


@pytest.mark.parametrize("new", [True, False])
def test_a_call_in_plain_data_is_refused_and_never_run(new, project, state, tmp_path):
    class Popen:
        def __reduce__(self):
            return subprocess.Popen, (["touch", str(tmp_path / "ran")],)

    class Evaluated:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    for number, hidden in enumerate(
        (Popen(), Evaluated(), Evil(tmp_path / "ran"), functools.partial(print))
    ):
        file = tmp_path / f"{number}.pth"
        content = {"args": argparse.Namespace(a=hidden), "model": state}
        torch.save(content, file, _use_new_zipfile_serialization=new)
        with pytest.raises(VestalError, match=r"holds more than tensors \(.*none of its code"):
            brought(project, file, tmp_path / file.stem)
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_beside_settings_is_refused_with_the_way_to_read_it(project, tmp_path):
    file = saved(tmp_path, {"model": nn.Linear(2, 2), "args": argparse.Namespace(a=1)})
    with pytest.raises(VestalError, match=r"Save it with torch\.save\(module\.state_dict"):
        brought(project, file, tmp_path)


def averaged(state):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


# What is saved, its part that is taken, and the other one.
AVERAGES = {
    "timm": (lambda s, e: {"state_dict": s, "state_dict_ema": e}, "state_dict", "state_dict_ema"),
    "torchvision": (
        lambda s, e: {
            "model": s,
            "model_ema": {**prefixed("module.", e), "n_averaged": torch.ones(())},
        },
        "model",
        "model_ema",
    ),
    "in a key": (lambda s, e: {"model": s, "ema": {"state_dict": e}}, "model", "ema"),
    "of Lightning": (
        lambda s, e: {"state_dict": {**prefixed("net.", s), **prefixed("ema_net.", e)}},
        "net",
        "ema_net",
    ),
    "the average first": (
        lambda s, e: {"state_dict": {**prefixed("ema_net.", e), **prefixed("net.", s)}},
        "net",
        "ema_net",
    ),
    "self-distillation": (
        lambda s, e: {"model": {**prefixed("student.", s), **prefixed("teacher.", e)}},
        "student",
        "teacher",
    ),
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_of_weights_and_their_average_it_is_said_which_are_taken(
    kind, project, state, tmp_path, caplog
):
    make, taken, other = AVERAGES[kind]
    average = averaged(state)
    file = saved(tmp_path, make(state, average))
    assert same(brought(project, file, tmp_path / "a"), state)
    assert f"using the weights under {taken}; it also holds {other}" in caplog.text
    assert same(brought(project, f"{file}:{other}", tmp_path / "b"), average)
    assert same(brought(project, f"{file}:{taken}", tmp_path / "c"), state)


def test_a_part_that_is_not_there_is_named_with_those_that_are(project, state, tmp_path):
    file = saved(tmp_path, {"state_dict": state, "state_dict_ema": state})
    with pytest.raises(VestalError, match=r"no part 'ema': it holds state_dict, state_dict_ema"):
        brought(project, f"{file}:ema", tmp_path)


OUTSIDE = {
    "a loss of Lightning": (lambda s: prefixed("net.", s), "criterion.pos_weight"),
    "a metric of Lightning": (lambda s: prefixed("net.", s), "train_metrics.acc.total"),
    "a loss beside the layers": (lambda s: s, "loss_fn.weight"),
    "a count of averages": (lambda s: prefixed("module.", s), "n_averaged"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_is_no_part_of_the_model_is_left_out_and_named(kind, project, state, tmp_path, caplog):
    make, key = OUTSIDE[kind]
    file = saved(tmp_path, {"state_dict": {**make(state), key: torch.ones(1)}})
    assert same(brought(project, file, tmp_path), state)
    assert f"not part of the model, left out: {key}" in caplog.text


def test_a_prefix_of_the_model_itself_is_kept():
    tensor = torch.zeros(1)
    places = {"module.fc.weight", "module.fc.bias"}
    assert unwrap_keys(dict.fromkeys(places, tensor), places).keys() == places


def test_half_a_fit_is_none_and_the_keys_are_named_as_they_came():
    tensor = torch.zeros(1)
    state = {"stem.conv.weight": tensor, "body.head.weight": tensor}
    assert unwrap_keys(state, {"conv.weight", "fc.weight"}).keys() == state.keys()


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def evil_zip(place, file, *members):
    """A zip in torch's layout whose pickle is evil."""
    with zipfile.ZipFile(place, "w") as made:
        made.writestr("w/data.pkl", pickle.dumps({"fc.weight": Evil(file)}, protocol=2))
        for name, content in {"w/version": "3\n", "w/byteorder": "little", **dict(members)}.items():
            made.writestr(name, content)


def test_a_malicious_pickle_is_refused_with_the_reason_and_never_run(project, tmp_path):
    mark = tmp_path / "it ran".replace(" ", "_")
    files = [saved(tmp_path, {"state_dict": {"fc.weight": Evil(mark)}}, f"w{n}") for n in (1, 2)]
    torch.save({"w": Evil(mark)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(mark)))
    for file in (*files, tmp_path / "old.pt", tmp_path / "bare.pth"):
        with pytest.raises(VestalError, match=r"holds more than tensors.*none of its code was run"):
            import_weights(project, "pets", str(file), tmp_path / f"run-{file.name}", LABELS)
    assert not mark.exists()
    with (tmp_path / "bare.pth").open("rb") as stream:
        pickle.load(stream)  # the file is what it says: it was this library that did not run it
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("as_torchscript.pt", ("w/code/__torch__.py", "class Net(Module):\n  pass\n")),
        ("as_exported.pt2", ("w/archive_format", "pt2")),
    ],
)
def test_a_malicious_pickle_that_looks_like_a_program_is_never_run(name, member, project, tmp_path):
    mark = tmp_path / "ran"
    evil_zip(tmp_path / name, mark, member)
    with pytest.raises(VestalError):
        pack(project, "pets", version="6.6.6", weights=tmp_path / name, labels=LABELS)
    assert not mark.exists()
    assert not list(project.model_store.glob("*6.6.6*"))


def test_a_whole_pickled_module_is_refused_by_its_class(project, tmp_path):
    with pytest.raises(VestalError, match=r"holds more than tensors \(torch\.nn\.modules\.linear"):
        import_weights(
            project, "pets", str(saved(tmp_path, nn.Linear(2, 2))), tmp_path / "run", LABELS
        )


NOT_FITTING = {
    "too few": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("head")},
        r"weights\.pth does not fit build\(\) of model\.py: head\.weight, head\.bias missing",
    ),
    "too many": (
        lambda s: {**s, "tail.weight": torch.zeros(2)},
        r"tail\.weight not in the model",
    ),
    "of a wrapped one too": (
        lambda s: {**{f"module.{k}": v for k, v in s.items()}, "module.tail": torch.zeros(2)},
        r": tail not in the model",
    ),
    "another shape": (
        lambda s: {**s, "features.0.0.weight": torch.zeros(16, 3, 3, 3)},
        r"features\.0\.0\.weight \[16, 3, 3, 3\], expected \[32, 3, 3, 3\] of another shape$",
    ),
    "two networks": (
        lambda s: {"netG": s, "netD": s},
        r"holds a dict of netG, netD, expected a state_dict",
    ),
    "another architecture": (
        lambda s: {"body.conv.weight": torch.zeros(2), "body.head.weight": torch.zeros(2)},
        r"; conv\.weight not in the model; head\.weight \[2\], expected \[3, 128\] of another",
    ),
}


@pytest.mark.parametrize("kind", NOT_FITTING)
def test_keys_that_do_not_fit_are_named(kind, project, state, tmp_path):
    change, message = NOT_FITTING[kind]
    with pytest.raises(VestalError, match=message):
        brought(project, saved(tmp_path, change(state)), tmp_path)


def test_another_number_of_classes_is_said_as_such(project, state, tmp_path):
    with pytest.raises(VestalError, match=r"have 3 classes but there are 2 labels\. .*--labels"):
        brought(project, saved(tmp_path, state), tmp_path, labels=("cat", "dog"))


def test_a_classifier_without_labels_says_how_to_name_them(project, state, tmp_path):
    with pytest.raises(UsageError, match=r"pets has no labels: .*`vestal pack --labels FILE`"):
        brought(project, saved(tmp_path, state), tmp_path, labels=None)


def test_classes_may_share_a_label_and_are_told_apart_by_index(project, state, tmp_path):
    labels = ("crane", "dog", "crane")
    packed = pack(project, "pets", version="7", weights=saved(tmp_path, state), labels=labels)
    assert packed.warnings == [
        "1 label names several classes: crane (0, 2). Predictions carry the class index, which "
        "tells them apart."
    ]
    with LoadedArchive(packed.archive) as loaded:
        described = loaded.describe()
        (answer,) = loaded.predict([Input.raw(*example(described))])
    assert described["labels"] == list(labels)
    top = answer.json()["top"]
    assert [labels[one["index"]] for one in top] == [one["label"] for one in top]
    assert sorted(one["index"] for one in top) == [0, 1, 2]
    Draft202012Validator(described["output"]).validate(answer.json())


def example(described):
    return json.dumps(described["example"]).encode(), "application/json"


IMAGENET = {"0": ["n02012849", "crane"], "1": ["n03126707", "crane"], "2": ["n03710721", "dog"]}


def test_torchserves_own_label_file_names_the_classes(tmp_path):
    file = tmp_path / "index_to_name.json"
    file.write_text(json.dumps(IMAGENET))
    assert _read_labels(file) == ["crane", "crane", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object"),
        ("{", "cannot be read"),
        ('{"1": "a"}', "has 1 label but none for class '0'"),
    ],
)
def test_a_label_file_that_is_no_such_object_is_named(tmp_path, text, message):
    file = tmp_path / "labels.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        _read_labels(file)


def test_weights_that_are_not_there_are_named_with_what_can_be(project, tmp_path):
    with pytest.raises(UsageError, match=r"no weights nowhere\.pth: expected the folder of a"):
        brought(project, "nowhere.pth", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 torn"])
def test_what_is_no_checkpoint_is_one_sentence(content, project, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(VestalError, match=r"w\.pth"):
        brought(project, tmp_path / "w.pth", tmp_path)


FILES = {
    "state_dict": "weights.pth",
    "safetensors": "weights.safetensors",
    "torchscript": "weights.pt",
    "exported": "weights.pt2",
    "onnx": "weights.onnx",
    "onnx with its weights beside it": "beside.onnx",
}


@pytest.fixture(scope="module")
def files(module, tmp_path_factory):
    """The same weights in every format, as somebody else would have saved them."""
    folder = tmp_path_factory.mktemp("files")
    for kind, name in FILES.items():
        if kind not in saving.ARTIFACTS:
            import onnx

            model = onnx.load(folder / FILES["onnx"])
            # As torch.onnx.export leaves them without external_data=False.
            beside = {"save_as_external_data": True, "location": f"{name}.data"}
            onnx.save(model, folder / name, size_threshold=0, **beside)
            continue
        saving.save(module, [kind], folder, torch.zeros(2, 3, 64, 64))
        (folder / saving.ARTIFACTS[kind]).rename(folder / name)
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_every_format_is_packed_and_answers_as_the_module_does(kind, project, module, files):
    version = f"1.{list(FILES).index(kind)}"
    packed = pack(project, "pets", version=version, weights=files / FILES[kind], labels=LABELS)
    assert packed.source == FILES[kind]
    sample = read_sample(packed.archive)
    with LoadedArchive(packed.archive) as loaded:
        (answer,) = loaded.predict([Input.raw(sample.input, sample.content_type)])
    transform = load_module(find_model(project, "pets"), "transforms").transform
    with torch.inference_mode():
        right = module(transform.example_input().unsqueeze(0)).softmax(-1)[0]
    said = {one["label"]: one["probability"] for one in answer.json()["top"]}
    assert [said[label] for label in LABELS] == pytest.approx(right.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["torchscript", "exported", "onnx"])
def test_a_program_with_another_number_of_classes_is_refused(kind, project, files):
    with pytest.raises(VestalError, match=r"3 outputs, but there are 2 labels"):
        pack(project, "pets", version="9", weights=files / FILES[kind], labels=("cat", "dog"))
    assert not (project.model_store / "pets-9.mar").exists()


def test_onnx_weights_that_stayed_at_home_are_missed(project, files, tmp_path):
    shutil.copyfile(files / "beside.onnx", tmp_path / "beside.onnx")
    with pytest.raises(VestalError, match=r"beside\.onnx has its weights in a second file"):
        brought(project, tmp_path / "beside.onnx", tmp_path)


def test_weights_from_elsewhere_are_turned_into_another_engines_format(project, files):
    packed = pack(
        project, "pets", version="2.0", weights=files / FILES["state_dict"], labels=LABELS,
        engine="onnx",
    )  # fmt: skip
    with zipfile.ZipFile(packed.archive) as archive:
        assert "model.onnx" in archive.namelist()
        bill = json.loads(archive.read("bill-of-materials.json"))
    assert (bill["engine"], bill["artifact"]) == ("onnx", "model.onnx")
    assert bill["training"] == {"dataset": "weights.pth", "seed": None, "metrics": {}}


def test_a_regressors_weights_come_with_the_handlers_own_example(tmp_path):
    project = Project(tmp_path)
    create(project, "prices", "regressor")
    module = load_module(find_model(project, "prices"), "model").build()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    archives = [
        pack(project, "prices", version=version, weights=tmp_path / "w.safetensors", engine=engine)
        for version, engine in (("1", None), ("2", "exported"))
    ]
    samples = [read_sample(packed.archive) for packed in archives]
    assert json.loads(samples[0].input) == {"bmi": 0.0, "bp": 0.0, "s5": 0.0}
    assert samples[0].answer == samples[1].answer


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder as transformers saves it, with code beside it that wants to be run."""
    from vestal.training.language import byte_level_bpe

    project = Project(tmp_path_factory.mktemp("language"))
    create(project, "poet", "text_generator")
    folder = project.root / "downloaded"
    load_module(find_model(project, "poet"), "model").build().save_pretrained(folder)
    byte_level_bpe(["to be or not to be"], vocabulary=300).save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(project.root / 'ran')!r}, 'w')\n")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(project.root / "ran")))
    return project, folder


def test_a_hugging_face_folder_is_packed_and_its_code_is_not_run(language_model):
    project, folder = language_model
    packed = pack(project, "poet", version="1.0", weights=folder)
    with zipfile.ZipFile(packed.archive) as archive:
        names = archive.namelist()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)
    assert not {"evil.py", "pytorch_model.bin"} & set(names)
    with LoadedArchive(packed.archive) as loaded:
        (answer,) = loaded.predict([Input.raw(b'{"prompt": "to be"}', "application/json")])
    assert answer.status == 200
    assert not (project.root / "ran").exists()


@pytest.mark.parametrize("lacking", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_says_what_writes_it(lacking, language_model, tmp_path):
    project, folder = language_model
    part = tmp_path / "part"
    part.mkdir()
    for file in {"model.safetensors", "config.json", "tokenizer.json"} - {lacking}:
        (part / file).symlink_to(folder / file)
    with pytest.raises(VestalError, match=rf"no {lacking}.*save_pretrained"):
        import_weights(project, "poet", str(part), tmp_path / "run")


@pytest.mark.parametrize("code", ["normalize = str", "import no_such_module", "transform = ("])
def test_transforms_that_cannot_be_used_are_named(code, state, tmp_path):
    project = Project(tmp_path)
    create(project, "pets", "image_classifier")
    (project.models / "pets" / "transforms.py").write_text(code)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"transforms\.py does not load: .*must define transform"):
        import_weights(project, "pets", str(tmp_path / "w.pth"), tmp_path / "run", LABELS)


BESIDE = ("model.fp16.safetensors", "adapter_model.safetensors", "vae.safetensors")


@pytest.fixture
def downloaded(language_model, tmp_path):
    """A copy of the folder that one test may change."""
    project, folder = language_model
    return project, shutil.copytree(folder, tmp_path / "downloaded")


@pytest.mark.parametrize("beside", BESIDE)
def test_a_whole_model_is_taken_whatever_stands_beside_it(beside, downloaded, tmp_path):
    project, folder = downloaded
    save_file({"other": torch.zeros(1)}, folder / beside)
    run = import_weights(project, "poet", str(folder), tmp_path / "run")
    assert run.artifacts == ["model.safetensors"]
    taken = (tmp_path / "run/model.safetensors").read_bytes()
    assert taken == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            r"holds 2 shards: save it as one file \(.*max_shard_size",
        ),
        (["a.safetensors", "b.safetensors"], r"holds a\.safetensors, b\.safetensors: rename"),
        (["adapter_model.safetensors"], r"an adapter without its model .*merge_and_unload"),
    ],
)
def test_weights_that_are_no_whole_model_are_named(names, message, downloaded, tmp_path):
    project, folder = downloaded
    (folder / "model.safetensors").unlink()
    for name in names:
        save_file({"weight": torch.zeros(1)}, folder / name)
    with pytest.raises(VestalError, match=message):
        import_weights(project, "poet", str(folder), tmp_path / "run")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_a_downloaded_folder_is_not_followed(file, downloaded, tmp_path):
    project, folder = downloaded
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VestalError, match=rf"{file} is a link to .*elsewhere, outside of its"):
        import_weights(project, "poet", str(folder), tmp_path / "run")


def test_the_links_of_a_hubs_cache_are_followed(downloaded, tmp_path):
    """models--org--name/snapshots/REVISION/config.json -> ../../blobs/HASH, as the hub keeps it."""
    project, folder = downloaded
    hub = tmp_path / "models--org--poet"
    (hub / "blobs").mkdir(parents=True)
    (hub / "snapshots/c0ffee").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(hub / "blobs" / str(number))
        (hub / "snapshots/c0ffee" / file.name).symlink_to(f"../../blobs/{number}")
    run = import_weights(project, "poet", str(hub / "snapshots/c0ffee"), tmp_path / "run")
    assert run.artifacts == ["model.safetensors"]


def test_a_folder_for_a_classifier_and_a_file_for_a_language_model_are_refused(
    language_model, project, tmp_path
):
    poets, folder = language_model
    with pytest.raises(VestalError, match=r"is a folder without training\.json.*pass a file"):
        import_weights(project, "pets", str(folder), tmp_path / "a", LABELS)
    with pytest.raises(VestalError, match=r"a language model must be a folder"):
        import_weights(poets, "poet", str(folder / "model.safetensors"), tmp_path / "b")
