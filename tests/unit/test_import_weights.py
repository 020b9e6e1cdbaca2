"""Import a state_dict: layouts of checkpoints, keys, and the errors for weights that do not fit."""

from __future__ import annotations

import warnings

import lightning
import pytest
import torch
from pets_weights import (
    LABELS,
    import_pets,
    pets_module,
    prefixed,
    same_tensors,
    save_weights,
)
from pets_weights import project as project  # a fixture
from pets_weights import state as state  # a fixture

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights.checkpoints import unwrap_keys
from vestal.weights.import_weights import import_weights

WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "lr": 0.1},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "next to a name": lambda state: {"model": "resnet", "weights": state},
    "twice inside": lambda state: {"model": {"state_dict": state}},
    "an unusual name": lambda state: {"generator": state, "step": 7},
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
def test_a_state_dict_is_found_in_common_checkpoint_layouts(wrapping, project, state, tmp_path):
    found = import_pets(project, save_weights(tmp_path, WRAPPINGS[wrapping](state)), tmp_path)
    if wrapping == "half precision":
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    assert same_tensors(found, state)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.ckpt", "weights"])
def test_a_state_dict_may_have_any_suffix(name, project, state, tmp_path):
    assert same_tensors(import_pets(project, save_weights(tmp_path, state, name), tmp_path), state)


def test_the_old_format_of_torch_save_is_read(project, state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same_tensors(import_pets(project, tmp_path / "old.pth", tmp_path), state)


def test_a_lightning_checkpoint_is_read(project, state, tmp_path):
    module = pets_module(project)

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
        warnings.simplefilter("ignore")  # Lightning's warnings are not about the checkpoint
        trainer.fit(task, batches)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    now = {k.removeprefix("net."): v for k, v in task.state_dict().items()}
    assert same_tensors(import_pets(project, tmp_path / "last.ckpt", tmp_path), now)


OUTSIDE = {
    "a loss of Lightning": (lambda s: prefixed("net.", s), "criterion.pos_weight"),
    "a metric of Lightning": (lambda s: prefixed("net.", s), "train_metrics.acc.total"),
    "a loss next to the layers": (lambda s: s, "loss_fn.weight"),
    "a count of averages": (lambda s: prefixed("module.", s), "n_averaged"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_tensors_outside_of_the_model_are_ignored_and_logged(
    kind, project, state, tmp_path, caplog
):
    make, key = OUTSIDE[kind]
    file = save_weights(tmp_path, {"state_dict": {**make(state), key: torch.ones(1)}})
    assert same_tensors(import_pets(project, file, tmp_path), state)
    assert f"not part of the model, left out: {key}" in caplog.text


def test_a_prefix_of_the_model_itself_is_kept():
    tensor = torch.zeros(1)
    places = {"module.fc.weight", "module.fc.bias"}
    assert unwrap_keys(dict.fromkeys(places, tensor), places).keys() == places


def test_a_prefix_that_fits_only_some_keys_is_not_removed():
    tensor = torch.zeros(1)
    state = {"stem.conv.weight": tensor, "body.head.weight": tensor}
    assert unwrap_keys(state, {"conv.weight", "fc.weight"}).keys() == state.keys()


NOT_FITTING = {
    "too few": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("head")},
        r"weights\.pth does not fit build\(\) of model\.py: head\.weight, head\.bias missing",
    ),
    "too many": (
        lambda s: {**s, "tail.weight": torch.zeros(2)},
        r"tail\.weight not in the model",
    ),
    "of a wrapped module": (
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
def test_the_error_for_weights_that_do_not_fit_names_the_keys(kind, project, state, tmp_path):
    change, message = NOT_FITTING[kind]
    with pytest.raises(VestalError, match=message):
        import_pets(project, save_weights(tmp_path, change(state)), tmp_path)


def test_the_error_for_another_number_of_classes_names_both_numbers(project, state, tmp_path):
    with pytest.raises(VestalError, match=r"have 3 classes but there are 2 labels\. .*--labels"):
        import_pets(project, save_weights(tmp_path, state), tmp_path, labels=("cat", "dog"))


def test_the_error_for_missing_weights_lists_what_is_accepted(project, tmp_path):
    with pytest.raises(UsageError, match=r"no weights nowhere\.pth: expected the folder of a"):
        import_pets(project, "nowhere.pth", tmp_path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn"])
def test_the_error_for_an_unreadable_checkpoint_names_the_file(content, project, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(VestalError, match=r"w\.pth"):
        import_pets(project, tmp_path / "w.pth", tmp_path)


@pytest.mark.parametrize("code", ["normalize = str", "import no_such_module", "transform = ("])
def test_invalid_transforms_are_refused(code, state, tmp_path):
    project = Project(tmp_path)
    create(project, "pets", "image_classifier")
    (project.models / "pets" / "transforms.py").write_text(code)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"transforms\.py does not load: .*must define transform"):
        import_weights(project, "pets", str(tmp_path / "w.pth"), tmp_path / "run", LABELS)
