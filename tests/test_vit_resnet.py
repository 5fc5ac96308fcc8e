"""The transformer against formulas written out, the residual network against torchvision's own."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from core_helpers import digit_stream, same, weights
from torch.nn import functional as F

from course_utils import models
from course_utils.learner import Learner
from course_utils.models.resnet import pretrained_weights
from course_utils.models.vit import Attention

GREY = SimpleNamespace(image_shape=(1, 28, 28))
TINY_VIT = {"width": 8, "depth": 2, "num_heads": 2, "patch_size": 4}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- vision transformer


def test_attention_is_a_softmax_written_out():
    attention, x = Attention(12, 3).double().requires_grad_(False), images(2, 5, 12).double()
    found = torch.zeros(2, 5, 12, dtype=torch.double)
    for i in range(2):
        q, k, v = (x[i] @ layer.weight.T + layer.bias for layer in (attention.query, attention.key, attention.value))
        for head in range(3):
            own = slice(4 * head, 4 * head + 4)
            for token in range(5):
                scores = [math.exp(float(q[token, own] @ k[other, own]) / math.sqrt(4)) for other in range(5)]
                for other in range(5):
                    found[i, token, own] += scores[other] / sum(scores) * v[other, own]
    expected = found @ attention.out.weight.T + attention.out.bias
    assert torch.allclose(attention(x), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_those_of_unfold_row_by_row(channels):
    model = models.build("vit", SimpleNamespace(image_shape=(channels, 8, 12)), **TINY_VIT)
    x = images(2, channels, 8, 12)
    patches = F.unfold(x, kernel_size=4, stride=4).transpose(1, 2)  # (batch, 6, channels * 16)
    expected = patches @ model.patches.weight.flatten(1).T + model.patches.bias
    assert torch.allclose(model.patches(x).flatten(2).transpose(1, 2), expected, atol=1e-6)


def layer_norm(x, weight, bias):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_the_transformer_is_what_its_docstring_says(pool, standardize):
    model = models.build("vit", GREY, num_outputs=5, pool=pool, standardize=standardize, **TINY_VIT).double()
    for parameter in model.parameters():  # no weight may hide behind its initial value
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    state = model.state_dict()
    x = h = images(3, 1, 28, 28).double()
    if standardize:
        h = (x - x.mean(dim=(1, 2, 3), keepdim=True)) / (x.var(dim=(1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    h = F.unfold(h, 4, stride=4).transpose(1, 2) @ state["patches.weight"].flatten(1).T + state["patches.bias"]
    if pool == "token":
        h = torch.cat([state["token"].repeat(3, 1, 1), h], dim=1)
    h = h + state["positions"]
    for i in range(2):
        own = {name.removeprefix(f"blocks.{i}."): v for name, v in state.items() if name.startswith(f"blocks.{i}.")}

        def dense(x, name, own=own):
            return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

        y = layer_norm(h, own["norm1.weight"], own["norm1.bias"])
        q, k, v = (dense(y, f"attention.{part}").reshape(3, -1, 2, 4) for part in ("query", "key", "value"))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2  # sqrt(4)
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(3, -1, 8)
        h = h + dense(mixed, "attention.out")
        y = dense(layer_norm(h, own["norm2.weight"], own["norm2.bias"]), "mlp.up")
        h = h + dense(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), "mlp.down")
    h = layer_norm(h, state["norm.weight"], state["norm.bias"])
    h = h[:, 0] if pool == "token" else h.mean(dim=1)
    assert torch.allclose(model.features(x), h, atol=1e-10)
    assert torch.allclose(model(x), h @ state["head.weight"].T + state["head.bias"], atol=1e-10)


def test_the_default_transformer_has_the_size_counted_by_hand():
    model = models.build("vit", GREY, num_outputs=10)
    block = 12 * 96**2 + (4 + 4 + 1) * 96 + 4 * 96  # four squares and two of 4:1; their biases; two norms
    expected = (49 * 96 + 96) + 17 * 96 + 96 + 6 * block + 2 * 96 + 10 * 97
    assert sum(p.numel() for p in model.parameters()) == expected
    assert 600_000 < expected < 800_000


def test_the_names_that_adapters_address():
    model = models.build("vit", GREY, **TINY_VIT)
    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    parts = ("attention.query", "attention.key", "attention.value", "attention.out", "mlp.up", "mlp.down")
    assert layers == {f"blocks.{i}.{part}" for i in range(2) for part in parts}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 5}, "patch_size=5 does not divide images of 28x28; choose one of 1, 2, 4, 7, 14, 28"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"pool": "max"}, "token, mean"),
        ({"num_heads": 5}, "num_heads=5 does not divide width=96"),
    ],
)
def test_impossible_transformers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.build("vit", GREY, **options)


# ---------------------------------------------------------------- residual network


@pytest.fixture(scope="module")
def published():
    """torchvision's network with random weights and running statistics that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return network


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(published.state_dict(), path)
    return path


@pytest.mark.parametrize("training", [True, False])
def test_with_its_own_stem_it_is_torchvisions_network(published, file, training):
    data = SimpleNamespace(image_shape=(3, 40, 40))
    model = models.build("resnet18", data, stem="imagenet", weights=file, standardize=False, num_outputs=2)
    reference = copy.deepcopy(published).train(training)
    reference.fc = torch.nn.Identity()
    x = images(3, 3, 40, 40)
    assert torch.allclose(model.train(training).features(x), reference(x), atol=1e-4)


@pytest.mark.parametrize(("stem", "stride", "side"), [("3x3", 1, 28), ("strided", 2, 14)])
def test_small_stems_are_one_convolution_before_torchvisions_body(published, file, stem, stride, side):
    model = models.build("resnet18", GREY, stem=stem, weights=file, standardize=False, num_outputs=2).eval()
    x = images(2, 1, 28, 28)
    h = F.conv2d(x, model.conv1.weight, stride=stride, padding=1)
    assert h.shape == (2, 64, side, side)
    h = torch.relu(published.bn1(h))
    h = published.layer4(published.layer3(published.layer2(published.layer1(h))))
    assert torch.allclose(model.features(x), h.mean(dim=(2, 3)), atol=1e-4)
    assert model(x).shape == (2, 2)


def test_a_grey_image_answers_as_the_same_image_in_three_colours(published, file):
    model = models.build("resnet18", SimpleNamespace(image_shape=(1, 40, 40)), stem="imagenet", weights=file)
    colour = models.build("resnet18", SimpleNamespace(image_shape=(3, 40, 40)), stem="imagenet", weights=file)
    x = images(2, 1, 40, 40)
    assert torch.allclose(model.eval().features(x), colour.eval().features(x.repeat(1, 3, 1, 1)), atol=1e-4)


def test_parameters_are_torchvisions_but_for_stem_and_head(published):
    model = models.build("resnet18", GREY, num_outputs=10)
    theirs = sum(p.numel() for name, p in published.named_parameters() if not name.startswith(("fc", "conv1")))
    assert sum(p.numel() for p in model.parameters()) == theirs + 64 * 9 + 10 * 513


def test_its_own_saved_weights_fit_too(tmp_path):
    model = models.build("resnet18", GREY, seed=1, num_outputs=3)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    again = models.build("resnet18", GREY, seed=2, weights=tmp_path / "own.pt")
    mine, theirs = weights(model), weights(again)
    assert same(
        {n: v for n, v in mine.items() if "head" not in n}, {n: v for n, v in theirs.items() if "head" not in n}
    )


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path, published):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("COURSE_OFFLINE", "1")

    def forbidden(*args, **options):
        raise AssertionError("a download although COURSE_OFFLINE is set")

    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    with pytest.raises(FileNotFoundError, match="COURSE_OFFLINE forbids the download of resnet18-.*weights=None"):
        models.build("resnet18", GREY, weights="IMAGENET1K_V1")

    def unreachable(*args, **options):
        raise URLError("no route")

    monkeypatch.setenv("COURSE_OFFLINE", "0")
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(FileNotFoundError, match="could not be had .*no route.*weights=None"):
        pretrained_weights("DEFAULT")
    with pytest.raises(ValueError, match="IMAGENET1K_V1"):
        models.build("resnet18", GREY, weights="IMAGENET22K")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        models.build("resnet18", GREY, weights=tmp_path / "nothing.pth")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="do not fit a ResNet-18.*bn1"):
        models.build("resnet18", GREY, weights=tmp_path / "part.pth")
    with pytest.raises(ValueError, match="3x3, strided, imagenet"):
        models.build("resnet18", GREY, stem="7x7")


# ---------------------------------------------------------------- both


@pytest.mark.parametrize(("name", "options"), [("vit", TINY_VIT), ("resnet18", {"stem": "strided"})])
def test_same_seed_same_bytes_and_the_head_grows(name, options):
    first, again, other = (models.build(name, GREY, seed=s, num_outputs=2, **options).eval() for s in (4, 4, 5))
    assert same(weights(first), weights(again))
    different = [n for n, v in first.named_parameters() if v.dim() > 1 and torch.equal(v, other.get_parameter(n))]
    assert not different
    x = images(4, 1, 28, 28)
    before = first(x)
    first.grow(5, torch.Generator().manual_seed(0))
    assert first.num_outputs == 5 and torch.allclose(first(x)[:, :2], before, atol=1e-6)
    assert torch.equal(first.head.weight[:2], again.head.weight)


@pytest.mark.parametrize(
    ("name", "options"), [("vit", {**TINY_VIT, "patch_size": 2, "width": 32}), ("resnet18", {"stem": "strided"})]
)
def test_they_learn_a_stream_of_uint8_images(name, options):
    stream = digit_stream().first(2)
    model = models.build(name, stream, **options)
    steps = 30 if name == "vit" else 12
    learner = Learner(model, steps_per_task=steps, batch_size=16, lr=3e-3, show_progress=False)
    history = learner.fit(stream)
    assert history.losses[0][-1] < history.losses[0][0] - 0.1 and history.accuracy[1, 1] > 0.5
    x = stream[0].test.x[:4]
    assert x.dtype == torch.uint8
    assert torch.allclose(learner.predict(x), model.eval()(x.float() / 255), atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("vit", TINY_VIT), ("resnet18", {"stem": "strided"})])
def test_brightness_and_contrast_do_not_matter_when_standardized(name, options):
    x = images(2, 1, 28, 28)
    model = models.build(name, GREY, num_outputs=3, **options).eval()
    assert torch.allclose(model(x), model(0.5 * x + 0.2), atol=1e-2)
    plain = models.build(name, GREY, num_outputs=3, standardize=False, **options).eval()
    assert not torch.allclose(plain(x), plain(0.5 * x + 0.2), atol=1e-2)
