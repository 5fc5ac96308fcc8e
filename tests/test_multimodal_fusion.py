"""Fusion: cross-attention against PyTorch's, maps, answers with and without text, and no label in the text."""

from __future__ import annotations

import copy

import pytest
import torch
from core_helpers import interrupted, same, weights
from test_multimodal_stream import DIGITS, WORDS, text_stream
from torch import nn
from torch.nn import functional as F

from course_utils import methods
from course_utils.learner import Learner
from course_utils.multimodal import CrossAttention, Fusion, Looked, TextPaths, build_fusion, prompt_tokens, reads_labels
from course_utils.multimodal.tokenizer import PAD
from course_utils.streams import Samples

OPTIONS = {"width": 16, "widths": (4, 8), "num_heads": 2}


def network(stream=None, num_outputs: int = 0, seed: int = 0, **options) -> Fusion:
    model = build_fusion(stream or text_stream(), DIGITS, WORDS, seed, **{**OPTIONS, **options})
    if num_outputs:
        model.grow(num_outputs, torch.Generator().manual_seed(seed))
    return model


def learner(stream, wanted=(), **options) -> Learner:
    options = {"steps_per_task": 6, "batch_size": 8, "lr": 0.01, "show_progress": False, **options}
    return Learner(network(stream), list(wanted), **options)


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("shared", [True, False])
def test_cross_attention_is_pytorchs(shared):
    torch.manual_seed(0)
    ours = CrossAttention(8, 6, 2).double()
    theirs = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True).double()
    with torch.no_grad():
        for name, layer in (("q", ours.query), ("k", ours.key), ("v", ours.value)):
            getattr(theirs, f"{name}_proj_weight").copy_(layer.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    image, text = torch.randn(3, 4, 8).double(), torch.randn(1 if shared else 3, 5, 6).double()
    real = torch.tensor([[True, True, True, False, True]]).expand(len(text), -1)
    found, looked = ours(image, text, real)
    every = text.expand(3, -1, -1)
    expected, shares = theirs(image, every, every, key_padding_mask=~real.expand(3, -1), average_attn_weights=False)
    assert torch.allclose(found, expected) and torch.allclose(looked, shares)
    assert looked.shape == (3, 2, 4, 5) and (looked[..., 3] == 0).all()
    assert torch.allclose(looked.sum(dim=3), torch.ones(3, 2, 4).double())


def test_maps_are_pictures_of_shares():
    weights_ = torch.zeros(1, 2, 6, 3)
    weights_[0, 0, 4, 1], weights_[0, 1, 4, 1], weights_[0, 0, 5, 2] = 1.0, 0.5, 1.0
    looked = Looked(weights_, torch.tensor([7, 8, 9]), torch.tensor([0, 1, 1]), (2, 3))
    assert looked.maps([1]).tolist() == [[[0, 0, 0], [0, 0.75, 0]]]
    assert looked.maps(looked.owner == 1).tolist() == [[[0, 0, 0], [0, 0.75, 0.5]]]
    large = looked.maps([1], size=(8, 12))
    assert large.shape == (1, 8, 12) and large[0].argmax() // 12 >= 5 and 0 <= large.min() <= large.max() <= 0.75


def test_patches_look_at_the_words_of_all_classes_seen():
    model = network(num_outputs=4).eval()
    out, looked = model.attend(images())
    assert torch.equal(out, model(images()))
    words = [int((row[0] != PAD).sum()) for row in model.prompts[:4]]
    assert looked.weights.shape == (5, 2, 4, sum(words)) and looked.grid == (2, 2)
    assert looked.owner.tolist() == [label for label, count in enumerate(words) for _ in range(count)]
    assert looked.tokens.tolist() == [int(t) for row in model.prompts[:4, 0] for t in row if t != PAD]
    total = sum(looked.maps(looked.owner == label) for label in range(4))
    assert torch.allclose(total, torch.ones(5, 2, 2), atol=1e-5)


def test_a_patch_is_where_it_is_in_the_image():
    """A bright corner changes the patch of that corner most: maps are not transposed or mirrored."""
    model = network(num_outputs=2, widths=(4,)).eval()
    model.body[0] = nn.Identity()  # without standardising, what changes stays where it is
    base = torch.zeros(1, 1, 8, 8)
    bright = base.clone()
    bright[0, 0, 0, 7] = 1.0
    change = (model.patches(bright) - model.patches(base)).norm(dim=2).unflatten(1, (4, 4))[0]
    assert change.nonzero().tolist() == [[0, 3]]  # first row, last column


# ---------------------------------------------------------------- with and without text


def test_the_text_matters_and_can_be_left_out():
    model = network(num_outputs=4).eval()
    with_text = model(images())
    model.use_text = False
    without = model(images())
    assert not torch.allclose(with_text, without)
    model.text.words.weight.data.mul_(-3.0)
    assert torch.equal(model(images()), without)
    model.use_text = True
    assert not torch.allclose(model(images()), with_text)


def test_words_have_no_say_in_the_image_alone():
    model = network(num_outputs=4)
    model.use_text = False
    model(images()).sum().backward()
    touched = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert touched == {"body", "lift", "positions", "block", "last_norm", "head"}


def test_every_image_may_have_a_text_of_its_own():
    model = network(num_outputs=4).eval()
    text = model.prompts[torch.tensor([3, 1, 0, 2, 1]), 0]
    together = model(images(), text)
    for i in range(5):
        assert torch.allclose(model(images()[i : i + 1], text[i : i + 1]), together[i : i + 1], atol=1e-5)
    assert not torch.allclose(model(images(), text.flip(0)), together, atol=1e-4)
    with pytest.raises(ValueError, match="2 texts for 5 images"):
        model(images(), text[:2])


def test_one_image_is_answered_alike_in_any_company():
    model = network(num_outputs=4).eval()
    together = model(images())
    assert torch.allclose(torch.cat([model(image[None]) for image in images()]), together, atol=1e-5)


# ---------------------------------------------------------------- no label in the text


def test_outputs_do_not_depend_on_labels_and_captions():
    stream = text_stream()
    run = learner(stream, [methods.Replay(20), TextPaths(0.3, captions=0.3)])
    run.fit(stream)
    prompts = prompt_tokens(stream.class_names, DIGITS, WORDS)
    test = Samples.concat([task.test for task in stream])
    captioned = Samples({**test.fields, "text": prompts[test.y, 0]})
    assert not reads_labels(lambda given: run.predict(given.x), captioned)
    run.model.use_text = False
    assert not reads_labels(lambda given: run.predict(given.x), captioned)
    run.model.use_text = True

    @torch.no_grad()
    def with_captions(given):
        return run.model.eval()(run.inputs(given.x), given.fields["text"])

    assert reads_labels(with_captions, captioned)
    # The learner hands over nothing but images: without labels and captions the outputs are the same bytes.
    assert torch.equal(run.predict(Samples({"x": test.x}).x), run.predict(captioned.x))


def test_the_text_of_the_next_task_is_not_read_yet():
    model = network(num_outputs=4).eval()
    before = model(images())
    model.prompts[4:] = model.prompts[4:].flip(0)
    assert torch.equal(model(images()), before)
    model.prompts[:4] = model.prompts[:4].flip(0)
    assert not torch.equal(model(images()), before)


# ---------------------------------------------------------------- in a stream


def test_it_learns_a_stream_with_replay_and_answers_both_ways():
    stream = text_stream()
    run = learner(stream, [methods.Replay(60), TextPaths(0.5)], steps_per_task=120, batch_size=16, lr=5e-3)
    history = run.fit(stream)
    run.model.use_text = False
    alone = [run.score(task.test, stream[2]) for task in stream]
    assert history.overall[-1] > 0.6 and sum(alone) / 3 > 0.6


def test_the_loss_is_the_mixture_that_it_says():
    stream, seen = text_stream(), []

    class Spy(methods.Method):
        def loss(self, learner, batch, out, loss):
            model, width = copy.deepcopy(learner.model), learner.task.outputs
            answers = []
            for use_text, text in ((True, None), (False, None), (True, batch["text"])):
                model.use_text = use_text
                answers.append(F.cross_entropy(model(batch["input"], text)[:, :width], batch["y"]).item())
            seen.append((loss.item(), 0.4 * answers[0] + 0.35 * answers[1] + 0.25 * answers[2]))
            return loss

    learner(stream, [methods.Replay(20), TextPaths(0.35, captions=0.25), Spy()]).fit(stream)
    assert len(seen) == 18
    assert all(found == pytest.approx(expected, rel=1e-4) for found, expected in seen)


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(tmp_path):
    stream, path = text_stream(), tmp_path / "run.pt"

    def make():
        return learner(stream, [methods.Replay(20), TextPaths(), methods.Distill()])

    whole = make()
    whole.fit(stream)
    interrupted(make(), stream, path, 2, position=1, step=4)
    again = make()
    again.resume(path)
    again.fit(stream)
    assert same(weights(again.model), weights(whole.model)) and again.history.losses == whole.history.losses


def test_building_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    assert same(weights(network(seed=1)), weights(network(seed=1)))
    assert not same(weights(network(seed=1)), weights(network(seed=2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="per_class=9: there are 1 to 5"):
        network(per_class=9)
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=16"):
        CrossAttention(16, 16, 3)
    with pytest.raises(ValueError, match="no class has been seen yet"):
        network()(images())
    with pytest.raises(ValueError, match="but descriptions of"):
        network(num_outputs=11)
    with pytest.raises(ValueError, match="neither below 0, together at most 1"):
        TextPaths(0.7, 0.7)
    with pytest.raises(ValueError, match="not those of the last training pass"):
        network(num_outputs=2).patches_of(torch.zeros(1))
    stream = text_stream()
    bare = [Samples({k: v for k, v in stream[0].train.fields.items() if k != "text"})]
    from dataclasses import replace

    with pytest.raises(ValueError, match="needs captions"):
        learner(stream, [TextPaths(captions=0.1)]).fit(replace(stream, tasks=(replace(stream[0], train=bare[0]),)))
