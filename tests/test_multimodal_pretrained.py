"""The path of a pretrained CLIP, tried with a tiny open_clip network that was saved and loaded on this machine."""

from __future__ import annotations

import builtins
import copy

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, same, weights
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from course_utils import datasets, lora, methods
from course_utils.learner import Learner
from course_utils.lessons.experiments import lesson_05_web
from course_utils.multimodal import Contrastive, PretrainedUnavailable, descriptions, pretrained, with_text, zero_shot

open_clip = pytest.importorskip("open_clip")

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
DIGITS = descriptions.of("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(**copy.deepcopy(CONFIG))
    with torch.no_grad():
        network.logit_scale.fill_(np.log(20.0))
    pretrained.save(network, CONFIG, place)
    return place


def images(count: int = 5, channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def small_classifier(folder, num_outputs=None):
    names = list(DIGITS)
    return pretrained.classifier(pretrained.load(folder=folder), names, DIGITS, num_outputs)


# ---------------------------------------------------------------- loading


def test_what_was_saved_is_loaded(folder):
    first, second = pretrained.load(folder=folder), pretrained.load(folder=folder)
    assert same(weights(first.network), weights(second.network))
    assert first.name == "tiny" and not first.network.training and len(first.mean) == len(first.std) == 3
    assert first.tokenizer(["a cat"]).shape == (1, 24)


def test_a_folder_without_a_network_is_told(tmp_path):
    with pytest.raises(PretrainedUnavailable, match="No pretrained CLIP: .*nowhere holds no open_clip_config.json"):
        pretrained.load(folder=tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["no weights", "cut short", "config"])
def test_a_damaged_folder_is_told_and_random_weights_never_take_its_place(folder, tmp_path, damage):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    data = (folder / "open_clip_pytorch_model.bin").read_bytes()
    if damage == "cut short":
        (tmp_path / "open_clip_pytorch_model.bin").write_bytes(data[: len(data) // 2])
    elif damage == "config":
        (tmp_path / "open_clip_pytorch_model.bin").write_bytes(data)
        (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(PretrainedUnavailable, match="cannot be loaded .* Save or copy it again"):
        pretrained.load(folder=tmp_path)


def test_offline_is_told_before_anything_is_tried(monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: pytest.fail("tried to download"))
    with pytest.raises(
        PretrainedUnavailable, match=r"COURSE_OFFLINE forbids the download of ViT-B-32 \(laion2b_s34b_b79k\)"
    ):
        pretrained.load()


def test_a_download_that_fails_is_told(monkeypatch):
    def unreachable(name, **options):
        assert (name, options["pretrained"], options["require_pretrained"]) == ("ViT-B-32", "openai", True)
        raise OSError("the host cannot be reached\nsecond line")

    monkeypatch.setenv("COURSE_OFFLINE", "0")
    monkeypatch.setattr(open_clip, "create_model", unreachable)
    with pytest.raises(PretrainedUnavailable) as caught:
        pretrained.load(weights="openai")
    assert "ViT-B-32 (openai) cannot be loaded (OSError: the host cannot be reached)" in str(caught.value)
    assert "\n" not in str(caught.value)  # a sentence to show


def test_a_missing_package_is_told(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PretrainedUnavailable, match="is not installed. Install it with `pip install open_clip_torch`"):
        pretrained.load()


# ---------------------------------------------------------------- zero-shot


def test_the_courses_clip_computes_what_open_clip_computes(folder):
    given = pretrained.load(folder=folder)
    reference = copy.deepcopy(given.network)
    model = pretrained.classifier(given, list(DIGITS), DIGITS).eval()
    x = images()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (given.mean, given.std))
    with torch.no_grad():
        image = reference.encode_image((x - mean) / std, normalize=True)
        classes = []
        for sentences in DIGITS.values():
            each = reference.encode_text(given.tokenizer(list(sentences)), normalize=True)
            classes.append(F.normalize(each.mean(dim=0), dim=0))
        expected = 20.0 * image @ torch.stack(classes).T
        assert torch.allclose(model(x), expected, atol=1e-4)
        assert torch.allclose(model.encode_image(x), image, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in reference.parameters()) + 16 * 16


def test_grey_images_of_any_size_are_taken(folder):
    model = small_classifier(folder).eval()
    grey = images(channels=1, side=8)
    assert torch.allclose(model(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    assert model(images(side=50)).shape == (5, 10)


def test_zero_shot_helpers_work_on_it(folder):
    model, given = small_classifier(folder), pretrained.load(folder=folder)
    image = zero_shot.image_embeddings(model, (images() * 255).to(torch.uint8))
    classes = zero_shot.class_embeddings(
        model, given.tokenizer, descriptions.from_templates(["cat", "dog"]), ["cat", "dog"]
    )
    assert classes.shape == (2, 16) and zero_shot.classify(image, classes).shape == (5,)
    assert len(zero_shot.rank_images(model, given.tokenizer, "a photo of a dog", image, count=3)) == 3


def test_a_linear_probe_is_logistic_regression(folder):
    rng = np.random.default_rng(0)
    y = torch.as_tensor(rng.integers(0, 3, 60))
    features = torch.as_tensor(rng.normal(size=(60, 4)) + np.eye(4)[y.numpy()]).float()
    found, fitted = pretrained.linear_probe(features[:40], y[:40], features[40:], y[40:], strength=0.5)
    reference = LogisticRegression(C=0.5, max_iter=1000).fit(features[:40].numpy(), y[:40].numpy())
    assert found == reference.score(features[40:].numpy(), y[40:].numpy())
    assert np.allclose(fitted.coef_, reference.coef_) and found > 1 / 3


# ---------------------------------------------------------------- adapters


def test_attention_of_pytorch_cannot_be_adapted_and_is_left_out(folder):
    model = small_classifier(folder)
    names = pretrained.adaptable(model)
    assert "image.visual.transformer.resblocks.1.mlp.c_proj" in names and not any(".attn" in name for name in names)
    bypassed = set(lora.candidates(model)) - set(names)
    assert {name for name in bypassed if not name.endswith("attn.out_proj")} == {
        "text.network.transformer.resblocks.0.mlp.c_fc"
    }
    # Why: PyTorch reads the weight past the layer's forward, so an adapter there breaks the block.
    lora.inject(model, "image.visual.transformer.resblocks.0.attn.out_proj", rank=2)
    with pytest.raises(AttributeError):
        model.train()(images())


def test_adapters_change_nothing_at_first_and_learn_alone(folder):
    model = small_classifier(folder).eval()
    before = model(images())
    layers = pretrained.adapt(model, rank=2, seed=3)
    assert layers == [
        f"image.visual.transformer.resblocks.{i}.mlp.{part}" for i in (0, 1) for part in ("c_fc", "c_proj")
    ]
    # Frozen attention takes another path through PyTorch, which rounds differently.
    assert torch.allclose(model(images()), before, atol=1e-4)
    F.cross_entropy(model(images()), torch.arange(5)).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {f"{layer}.lora_{f}.default" for layer in layers for f in "AB"} | {
        "head.projection",
        "head.log_scale",
    }
    with pytest.raises(ValueError, match=r"towers=\['audio'\]: nothing to adapt in \['audio'\]"):
        pretrained.adapt(small_classifier(folder), towers=["audio"])


def test_it_learns_a_stream_with_lora_replay_and_contrastive(folder):
    given = pretrained.load(folder=folder)
    stream = with_text(digit_stream(num_tasks=2, limit=6), DIGITS, given.tokenizer)
    model = pretrained.classifier(given, stream.class_names, DIGITS, num_outputs=0)
    before = weights(model)
    patterns = [name for name in pretrained.adaptable(model) if ".mlp." in name]
    wanted = [lora.LoRA(2, 4.0, patterns, start="frozen"), methods.Replay(8), Contrastive()]
    run = Learner(model, wanted, steps_per_task=2, batch_size=6, lr=0.01, show_progress=False)
    history = run.fit(stream)
    assert (history.accuracy[1] >= 0).all() and stream[0].train.fields["text"].max() > 32_767
    towers = [
        {k: v for k, v in state.items() if k.startswith(("image.", "text."))} for state in (weights(run.model), before)
    ]
    assert same(*towers) and towers[0]


# ---------------------------------------------------------------- the lesson's optional section


def test_the_lesson_compares_four_ways_to_use_a_pretrained_network(folder, capsys):
    data = datasets.load("digits")
    lesson_05_web.show(pretrained.load(folder=folder), data, limit=4, memory=10, epochs=1)
    found = lesson_05_web.compare(pretrained.load(folder=folder), data, limit=4, memory=10, epochs=1)
    assert list(found) == [
        "zero-shot, names",
        "zero-shot, our descriptions",
        "linear probe, all classes at once",
        "LoRA + replay, five tasks",
    ]
    assert all(0 <= value <= 100 for value in found.values())
    printed = capsys.readouterr().out
    assert "tiny" in printed and f"{found['zero-shot, names']:.1f}" in printed
    # an untrained network knows nothing of digits; what a probe learns on its features is more than that
    assert found["linear probe, all classes at once"] > found["zero-shot, names"]
