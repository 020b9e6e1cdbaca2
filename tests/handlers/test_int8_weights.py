"""Language models in int8: near fp32, and the same for a text alone and in a batch."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import language_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from vestal_handlers.text.int8_weights import Int8Linear, quantize
from vestal_handlers.text.language_model import load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_model(tmp_path_factory.mktemp("language"))


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_stays_near_fp32(bias):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=bias)
    inputs = torch.randn(5, 3, 64)
    outputs = Int8Linear(layer.weight.detach(), layer.bias)(inputs)
    assert outputs.shape == (5, 3, 32)
    assert relative(outputs, layer(inputs)) < 0.03


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_row_does_not_depend_on_the_others(scale):
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(32, 64), None)
    row, others = torch.randn(1, 64), scale * torch.randn(7, 64)
    alone = layer(row)
    for place in (0, 3, 7):
        batch = torch.cat([others[:place], row, others[place:]])
        assert torch.equal(layer(batch)[place : place + 1], alone)


def test_zeros_give_the_bias():
    layer = nn.Linear(8, 4)
    outputs = Int8Linear(layer.weight.detach(), layer.bias)(torch.zeros(2, 8))
    assert torch.equal(outputs, layer.bias.expand(2, 4))


def test_gpt2_and_llama_are_quantized_and_stay_near_fp32(folder):
    models = [load(folder, CPU).model]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    models.append(LlamaForCausalLM(config).eval())
    ids = torch.randint(0, 300, (3, 10))
    for model, layers in zip(models, (2 * 4 + 1, 2 * 7 + 1), strict=True):
        quantized = copy.deepcopy(model)
        assert quantize(quantized) == layers
        with torch.inference_mode():
            assert relative(quantized(ids).logits, model(ids).logits) < 0.1
            alone = quantized(ids[:1]).logits
            assert torch.allclose(quantized(ids).logits[:1], alone, atol=1e-5)


def test_the_handlers_model_names_its_precision(folder):
    loaded = load(folder, CPU, "int8")
    described = loaded.describe()
    assert described["precision"] == "int8"
    assert described["parameters"] == load(folder, CPU).describe()["parameters"] > 0


@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), ("cuda", "int8")])
def test_another_precision_is_refused(folder, device, precision):
    with pytest.raises(ValueError, match=rf"not support .*: {precision} on {device}, only fp32"):
        load(folder, torch.device(device), precision)
