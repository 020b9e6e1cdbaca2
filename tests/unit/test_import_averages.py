"""Import one of several state_dicts in a checkpoint, such as an average of the weights."""

from __future__ import annotations

import pytest
import torch
from pets_weights import (
    import_pets,
    prefixed,
    same_tensors,
    save_weights,
)
from pets_weights import project as project  # a fixture
from pets_weights import state as state  # a fixture

from vestal.errors import VestalError


def averaged(state):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


# The checkpoint, the part that is used, and the other part.
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
def test_a_log_message_names_which_of_several_state_dicts_is_used(
    kind, project, state, tmp_path, caplog
):
    make, used, other = AVERAGES[kind]
    average = averaged(state)
    file = save_weights(tmp_path, make(state, average))
    assert same_tensors(import_pets(project, file, tmp_path / "a"), state)
    assert f"using the weights under {used}; it also holds {other}" in caplog.text
    assert same_tensors(import_pets(project, f"{file}:{other}", tmp_path / "b"), average)
    assert same_tensors(import_pets(project, f"{file}:{used}", tmp_path / "c"), state)


def test_the_error_for_an_unknown_part_lists_the_parts(project, state, tmp_path):
    file = save_weights(tmp_path, {"state_dict": state, "state_dict_ema": state})
    with pytest.raises(VestalError, match=r"no part 'ema': it holds state_dict, state_dict_ema"):
        import_pets(project, f"{file}:ema", tmp_path)
