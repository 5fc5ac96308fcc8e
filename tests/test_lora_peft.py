"""Parity with Hugging Face PEFT: the same weights in, the same outputs, gradients and merged weights out."""

from __future__ import annotations

import copy
import os
import re
import socket
from types import SimpleNamespace

import pytest
import torch
from core_helpers import same
from torch.nn import functional as F

from course_utils import lora, models

os.environ["HF_HUB_OFFLINE"] = "1"  # before PEFT is imported: it reads this once
DATA = SimpleNamespace(image_shape=(1, 28, 28))
CASES = {
    "ViT, queries and values": ("vit", {}, ["blocks.*.attention.query", "blocks.*.attention.value"]),
    "ViT, all layers": ("vit", {"depth": 2}, None),
    "ResNet-18, strided, convolutions and shortcuts": ("resnet18", {"stem": "strided"}, ["conv1", "layer*.0.*"]),
    "ResNet-18, torchvision's stem": ("resnet18", {"stem": "imagenet"}, ["conv1", "layer1.1.*", "layer4.*"]),
    "small CNN, all layers": ("small_cnn", {}, None),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*args, **options):
        raise AssertionError("PEFT reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def pair(case: str, stabilized: bool, rank: int = 4, alpha: int = 6):
    """Our network and PEFT's with the same base and the same random factors, in float64; names of adapted layers."""
    from peft import LoraConfig, get_peft_model

    name, options, patterns = CASES[case]
    ours = models.build(name, DATA, num_outputs=5, **options).double()
    base = copy.deepcopy(ours)
    names = lora.inject(ours, patterns, rank, alpha, rank_stabilized=stabilized)
    exact = "|".join(re.escape(name) for name in names)  # a list would match endings: conv1 in every block
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=exact, use_rslora=stabilized, lora_dropout=0.0)
    theirs = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer_name, layer in lora.adapted(ours).items():
            other = theirs.base_model.model.get_submodule(layer_name)
            for mine, peers in ((layer.lora_A, other.lora_A), (layer.lora_B, other.lora_B)):
                assert mine["default"].shape == peers["default"].weight.shape
                mine["default"].copy_(0.1 * torch.randn(mine["default"].shape, generator=generator))
                peers["default"].weight.copy_(mine["default"])
    return ours, theirs, names


def batch():
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(6, 1, 28, 28, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 5, (6,), generator=generator)


@pytest.mark.parametrize("stabilized", [False, True], ids=["alpha / r", "alpha / sqrt r"])
@pytest.mark.parametrize("case", CASES)
def test_same_outputs_and_gradients_apart_and_merged(case, stabilized):
    ours, theirs, names = pair(case, stabilized)
    inner = theirs.base_model.model
    x, y = batch()
    plain = models.build(CASES[case][0], DATA, num_outputs=5, **CASES[case][1]).double()

    # In training mode, so that BatchNorm takes part.
    out, expected = ours.train()(x), theirs.train()(x)
    assert torch.allclose(out, expected, rtol=1e-9, atol=1e-9)
    assert (out - plain.train()(x)).abs().max() > 1e-3
    F.cross_entropy(out, y).backward()
    F.cross_entropy(expected, y).backward()
    for name in names:
        layer, other = ours.get_submodule(name), inner.get_submodule(name)
        for mine, peers in ((layer.lora_A, other.lora_A), (layer.lora_B, other.lora_B)):
            gradient, reference = mine["default"].grad, peers["default"].weight.grad
            assert gradient is not None and gradient.abs().max() > 0
            assert torch.allclose(gradient, reference, rtol=1e-7, atol=1e-7 * reference.abs().max().item()), name
        assert layer.base.weight.grad is None and other.base_layer.weight.grad is None
        assert torch.allclose(layer.update("default"), other.get_delta_weight("default"), rtol=1e-9, atol=1e-12)

    ours.eval(), theirs.eval()
    out = ours(x)
    lora.merge(ours), theirs.merge_adapter()
    assert torch.allclose(ours(x), theirs(x), rtol=1e-9, atol=1e-9) and torch.allclose(
        ours(x), out, rtol=1e-6, atol=1e-9
    )
    lora.fold(ours)
    theirs.unmerge_adapter()
    whole = theirs.merge_and_unload()
    assert ours.state_dict().keys() == whole.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.allclose(ours.state_dict()[key], value, rtol=1e-9, atol=1e-12), key


def test_parameters_counted_alike():
    ours, theirs, _ = pair("ViT, all layers", False)
    head = sum(p.numel() for p in ours.head.parameters())  # which PEFT freezes
    trainable, total = theirs.get_nb_trainable_parameters()
    assert lora.count_parameters(ours) == (trainable + head, total)


def test_several_adapters_answer_as_pefts(no_network):
    from peft import LoraConfig

    ours, theirs, names = pair("ViT, queries and values", False)
    lora.inject(ours, names[:3], 2, 6, name="second")
    theirs.add_adapter("second", LoraConfig(r=2, lora_alpha=6, target_modules=names[:3]))
    with torch.no_grad():
        for layer_name in names[:3]:
            layer, other = ours.get_submodule(layer_name), theirs.base_model.model.get_submodule(layer_name)
            layer.lora_B["second"].fill_(0.2)
            other.lora_A["second"].weight.copy_(layer.lora_A["second"])
            other.lora_B["second"].weight.fill_(0.2)
    x, _ = batch()
    answers = []
    for name in ("default", "second", "default"):
        lora.use(ours, name), theirs.set_adapter(name)
        answers.append(ours.eval()(x))
        assert torch.allclose(answers[-1], theirs.eval()(x), rtol=1e-9, atol=1e-9)
    assert torch.equal(answers[0], answers[2]) and not torch.allclose(answers[0], answers[1], atol=1e-3)
    lora.use(ours, None)
    with theirs.disable_adapter():
        assert torch.equal(ours(x), theirs(x))


def test_new_factors_come_from_the_same_distribution():
    from peft import LoraConfig, get_peft_model

    for name, layer in (("vit", "blocks.0.mlp.down"), ("resnet18", "layer2.0.conv2")):
        ours = models.build(name, DATA)
        theirs = get_peft_model(models.build(name, DATA), LoraConfig(r=32, target_modules=[layer]))
        lora.inject(ours, layer, 32)
        other, mine = theirs.base_model.model.get_submodule(layer), ours.get_submodule(layer)
        a, b = mine.lora_A["default"], other.lora_A["default"].weight
        assert a.shape == b.shape
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.03)
        assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.02)
        assert not mine.lora_B["default"].any() and not other.lora_B["default"].weight.any()


def test_their_adapter_can_be_read_into_ours():
    """PEFT's own state dict, its names translated: a check that the factors mean the same."""
    from peft import get_peft_model_state_dict

    ours, theirs, names = pair("ResNet-18, torchvision's stem", True)
    saved = get_peft_model_state_dict(theirs)
    state = {k.removeprefix("base_model.model.").removesuffix(".weight"): v for k, v in saved.items()}
    mine = lora.adapter_state_dict(ours)
    factors = {k: v for k, v in mine.items() if not k.endswith(".scale")}
    assert same(dict(sorted(state.items())), dict(sorted(factors.items()))) and len(factors) == 2 * len(names)
