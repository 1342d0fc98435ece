"""Claims about LoRA's short way: PEFT's answers and gradients, and in bfloat16 no worse than PEFT's own."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from internvl_detect.model.lora_layers import LeanLinear, use_lean


def layer_of(dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40, bias=False).to(dtype))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False, **options)
    wrapped = get_peft_model(base, config)
    use_lean(wrapped)
    return wrapped.base_model.model[0]


def answer_and_gradients(forward, layer, x):
    x = x.clone().requires_grad_(True)
    layer.zero_grad()
    forward(x).square().sum().backward()
    return [forward(x).detach(), x.grad, *(p.grad.clone() for n, p in layer.named_parameters() if "lora_" in n)]


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 7, 24)])
def test_in_float32_answers_and_gradients_are_peft_s(shape):
    layer = layer_of()
    assert type(layer) is LeanLinear
    x = torch.randn(*shape)
    ours = answer_and_gradients(layer, layer, x)
    theirs = answer_and_gradients(lambda t: Linear.forward(layer, t), layer, x)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 1e-5


def test_in_bfloat16_it_is_as_near_to_float64_as_peft_s():
    layer = layer_of(torch.bfloat16)
    x = torch.randn(64, 24).bfloat16()
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        wanted = Linear.forward(exact, x.double())
        errors = [(y.double() - wanted).norm() / wanted.norm() for y in (layer(x), Linear.forward(layer, x))]
    assert layer(x).dtype == torch.bfloat16
    assert errors[0] < max(1.5 * errors[1], 1e-3)


def test_dropout_is_drawn_while_training_only():
    layer = layer_of(lora_dropout=0.5)
    x = torch.randn(3, 24)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_what_is_out_of_the_ordinary_goes_peft_s_way():
    layer = layer_of()
    x = torch.randn(3, 24)
    wanted = Linear.forward(layer, x)
    layer.merge()
    assert (layer(x) - wanted).abs().max() < 1e-5
    layer.unmerge()
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))
    dora = layer_of(use_dora=True)
    assert torch.equal(dora(x), Linear.forward(dora, x))
