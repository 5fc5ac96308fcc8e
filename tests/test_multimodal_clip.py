"""The contrastive loss against slow references, the pair, and the four mistakes that public code makes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from core_helpers import digit_stream, same, weights
from torch import nn
from torch.nn import functional as F

from course_utils import lora, models
from course_utils.multimodal import (
    CLIP,
    TextTransformer,
    Tokenizer,
    build_clip,
    collisions,
    contrastive_loss,
    descriptions,
    ensemble,
    prompt_tokens,
    reads_labels,
    same_label,
    same_pairs,
    similarity,
)
from course_utils.multimodal.tokenizer import PAD
from course_utils.streams import Samples

DIGITS = descriptions.of("digits")


def unit(n: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(vectors, dim=1)


def tokenizer() -> Tokenizer:
    return Tokenizer.build(sentence for sentences in DIGITS.values() for sentence in sentences)


def pair(num_outputs: int = 10, seed: int = 0, **options) -> CLIP:
    options = {"widths": (4, 8), "num_features": 12, **options}
    text = {"width": 16, "num_heads": 2, "depth": 1}
    return build_clip(
        digit_stream(), DIGITS, tokenizer(), seed=seed, dim=10, text=text, num_outputs=num_outputs, **options
    )


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- the loss


def slow_loss(image, text, scale, positives) -> float:
    """The definition with loops: in both directions, minus the mean log-probability of the right partners."""
    directions = []
    for queries, keys, right in ((image, text, positives), (text, image, positives.T)):
        total = 0.0
        for i in range(len(queries)):
            scores = [scale * float(queries[i] @ keys[j]) for j in range(len(keys))]
            normalizer = math.log(sum(math.exp(score) for score in scores))
            partners = [j for j in range(len(keys)) if right[i, j]]
            total += sum(normalizer - scores[j] for j in partners) / len(partners)
        directions.append(total / len(queries))
    return sum(directions) / 2


def test_the_published_loss_is_two_cross_entropies():
    image, text = unit(7, seed=1), unit(7, seed=2)
    logits, target = 9.0 * image @ text.T, torch.arange(7)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = contrastive_loss(image, text, 9.0)
    assert torch.allclose(found, expected)
    assert float(found) == pytest.approx(slow_loss(image, text, 9.0, torch.eye(7, dtype=torch.bool)))
    assert torch.equal(contrastive_loss(text, image, 9.0), found)  # neither side is special


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 3, 3]])
def test_the_label_aware_loss_spreads_the_target(labels):
    image, text, y = unit(6, seed=1), unit(6, seed=2), torch.tensor(labels)
    positives = same_label(y)
    found = contrastive_loss(image, text, 12.0, positives)
    assert float(found) == pytest.approx(slow_loss(image, text, 12.0, positives))
    soft = positives.double() / positives.double().sum(dim=1, keepdim=True)
    logits = 12.0 * image @ text.T
    assert torch.allclose(found, (F.cross_entropy(logits, soft) + F.cross_entropy(logits.T, soft)) / 2)
    if len(set(labels)) == 6:
        assert torch.allclose(found, contrastive_loss(image, text, 12.0))


def test_columns_are_shared_out_by_themselves():
    """More texts than images: what is spread along a row is not what is spread along a column."""
    image, text = unit(3, seed=1), unit(5, seed=2)
    positives = same_label(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1, 0]))
    found = contrastive_loss(image, text, 7.0, positives)
    assert float(found) == pytest.approx(slow_loss(image, text, 7.0, positives))


@pytest.mark.parametrize(("same_words", "equal"), [(True, True), (False, False)])
def test_the_two_forms_differ_only_where_captions_of_a_class_differ(same_words, equal):
    """Equal texts get equal probabilities, so that it does not matter over which of them the target is spread."""
    image, y = unit(6, seed=1).requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 2])
    text = unit(3, seed=2)[y] if same_words else unit(6, seed=2)
    scale = torch.tensor(9.0, requires_grad=True, dtype=torch.float64)
    plain, aware = contrastive_loss(image, text, scale), contrastive_loss(image, text, scale, same_label(y))
    gradients = [torch.autograd.grad(loss, (image, scale)) for loss in (plain, aware)]
    found = [torch.allclose(a, b, atol=1e-10) for a, b in [(plain, aware), *zip(*gradients, strict=True)]]
    assert found == [equal] * 3


def test_the_plain_form_pushes_an_image_away_from_its_own_class():
    """An image between two sentences of its class: spreading the target leaves it there, the diagonal tears it to one."""
    text = F.normalize(torch.tensor([[1.0, 0.5], [1.0, -0.5]], dtype=torch.float64), dim=1)
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(contrastive_loss(image, text, 10.0), image)
    (aware,) = torch.autograd.grad(contrastive_loss(image, text, 10.0, same_label(torch.zeros(2))), image)
    assert aware.abs().max() < 1e-12 and plain[0, 1] < -0.5 and plain[1, 1] > 0.5


def test_half_of_the_negatives_are_of_the_same_class_when_there_are_two():
    y = torch.arange(128) % 2
    assert collisions(y) == pytest.approx((64 * 63 * 2) / (128 * 127))
    assert collisions(torch.arange(5)) == 0.0 and collisions(torch.zeros(5)) == 1.0
    with pytest.raises(ValueError, match="1 labels have no negatives"):
        collisions(torch.zeros(1))


def test_equal_captions_are_pairs_whatever_the_label():
    text = torch.tensor([[1, 2], [1, 2], [1, 3], [4, 2]])
    y = torch.tensor([0, 1, 2, 2])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert same_pairs(y, text).int().tolist() == expected


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 images and 4 texts: without `positives` they must come in pairs"):
        contrastive_loss(unit(3), unit(4), 1.0)
    with pytest.raises(ValueError, match="every image and every text has at least one pair"):
        contrastive_loss(unit(3), unit(3), 1.0, torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool())
    with pytest.raises(ValueError, match=r"positives has shape \(2, 2\)"):
        contrastive_loss(unit(3), unit(3), 1.0, torch.eye(2).bool())


def test_a_vector_of_zeros_has_no_direction_and_stops_no_training():
    """A small network can be off for an image: all its features are 0, and so is what normalising leaves of them."""
    image, text = unit(4, seed=1), unit(4, seed=2)
    image[2] = F.normalize(torch.zeros(1, 5, dtype=torch.float64), dim=1)
    image.requires_grad_()
    loss = contrastive_loss(image, text, 10.0)
    (gradient,) = torch.autograd.grad(loss, image)
    assert loss.isfinite() and gradient.isfinite().all() and gradient[2].abs().sum() > 0


# ---------------------------------------------------------------- four mistakes that public code makes


def test_mistake_1_an_unclamped_scale_is_another_loss_and_is_refused():
    image, text = unit(6, seed=1), unit(6, seed=2)
    head = pair().head
    with torch.no_grad():
        head.log_scale.fill_(math.log(500.0))
    assert head.scale.item() == pytest.approx(100.0)
    with pytest.raises(ValueError, match="scale=500 is above 100: clamp its logarithm"):
        contrastive_loss(image, text, head.log_scale.exp())
    scales = (500.0, head.scale.item())
    unclamped, clamped = (F.cross_entropy(scale * image @ text.T, torch.arange(6)).item() for scale in scales)
    assert abs(unclamped - clamped) > 1.0


def test_mistake_1_a_scale_beyond_the_bound_gets_no_gradient_so_the_parameter_is_brought_back():
    head = pair().head
    with torch.no_grad():
        head.log_scale.fill_(10.0)
    (beyond,) = torch.autograd.grad(head.scale, head.log_scale)
    head.clamp()
    (at_bound,) = torch.autograd.grad(head.scale, head.log_scale)
    assert float(beyond) == 0.0 and float(at_bound) == pytest.approx(100.0, rel=1e-5)


def test_mistake_2_vectors_that_are_not_normalised_are_another_loss_and_are_refused():
    image, text = unit(6, seed=1), unit(6, seed=2)
    longer = image * torch.tensor([1.0, 2, 3, 4, 5, 6])[:, None]
    with pytest.raises(ValueError, match="image embeddings have lengths 1 to 6, expected 1: normalise them"):
        contrastive_loss(longer, text, 10.0)
    with pytest.raises(ValueError, match="text embeddings have lengths"):
        similarity(image, 2 * text)
    # A text ranks images by their length instead of by their direction:
    assert not torch.equal((text @ longer.T).argmax(dim=1), (text @ image.T).argmax(dim=1))


def test_mistake_3_text_that_reveals_the_label_is_found():
    """A way to answer that looks captions up by the label is exposed by exchanging labels; the pair itself is not."""
    model, words = pair().eval(), tokenizer()
    prompts = prompt_tokens(list(DIGITS), DIGITS, words)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    samples = Samples({"x": images(6), "y": y, "text": prompts[y, 0]})

    @torch.no_grad()
    def honest(given):
        return model(given.x)

    @torch.no_grad()
    def from_labels(given):
        return model(given.x) + 50 * model.encode_text(prompts[given.y, 0])

    @torch.no_grad()
    def from_captions(given):
        return model(given.x) + 50 * model.encode_text(given.fields["text"])

    assert not reads_labels(honest, samples)
    assert reads_labels(from_labels, samples) and reads_labels(from_captions, samples)
    with pytest.raises(ValueError, match="all 2 samples are of one class"):
        reads_labels(honest, Samples({"x": images(2), "y": torch.zeros(2)}))


def test_mistake_4_one_direction_alone_is_another_loss():
    """Every image finds its text, yet the second text finds a wrong image: only the other direction sees it."""
    text = F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2]], dtype=torch.float64), dim=1)
    image = F.normalize(torch.tensor([[1.0, 0.01], [-1.0, -3.0]], dtype=torch.float64), dim=1)
    logits, target = 30 * image @ text.T, torch.arange(2)
    image_to_text, text_to_image = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    assert (logits.argmax(dim=1) == target).all() and (logits.T.argmax(dim=1) == torch.tensor([0, 0])).all()
    assert float(contrastive_loss(image, text, 30.0)) == pytest.approx(float(image_to_text + text_to_image) / 2)
    assert text_to_image > 5 > 1 > image_to_text


# ---------------------------------------------------------------- the pair


def test_towers_meet_on_the_unit_sphere():
    model = pair().eval()
    image, text = model.encode_image(images()), model.encode_text(model.prompts[:, 0])
    assert image.shape == (6, 10) and text.shape == (10, 10)
    for vectors in (image, text, model.class_embeddings()):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5)
    assert torch.allclose(model(images()), model.head.scale * image @ model.class_embeddings().T, atol=1e-5)
    assert model.head.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_an_ensemble_is_the_normalised_mean_of_unit_vectors():
    model = pair().eval()
    found = model.class_embeddings()
    for label in range(10):
        each = model.text(model.prompts[label])
        mean = torch.stack([vector / vector.norm() for vector in each]).mean(dim=0)
        assert torch.allclose(found[label], mean / mean.norm(), atol=1e-5)


def test_in_training_descriptions_take_turns():
    model, words = pair(num_outputs=2), tokenizer()
    model.prompts[1, 3:] = PAD  # the second class has three
    found = [model.class_embeddings() for _ in range(7)]
    for call, vectors in enumerate(found):
        expected = model.text(torch.stack([model.prompts[0, call % 5], model.prompts[1, call % 3]]))
        assert torch.allclose(vectors, expected, atol=1e-6)
    assert words.context_length == model.prompts.shape[2] and int(model.turn) == 7
    with torch.no_grad():
        model.class_embeddings()
    model.eval().class_embeddings()
    assert int(model.turn) == 7  # the ensemble takes no turn
    vectors = model.class_embeddings()
    assert vectors.requires_grad and torch.allclose(vectors, ensemble(model.text, model.prompts[:2]), atol=1e-6)


def test_classes_may_have_different_numbers_of_descriptions():
    model, words = pair().eval(), tokenizer()
    few = {"zero": DIGITS["zero"][:1], "one": DIGITS["one"][:3]}
    tokens = prompt_tokens(["one", "zero"], few, words)
    assert tokens.shape == (2, 3, words.context_length) and (tokens[1, 1:] == PAD).all()
    found = ensemble(model.text, tokens)
    assert torch.allclose(found[1], model.text(words(DIGITS["zero"][0]))[0], atol=1e-5)
    assert torch.allclose(found[0], F.normalize(model.text(words(few["one"])).mean(dim=0), dim=0), atol=1e-5)
    tokens[1] = PAD
    with pytest.raises(ValueError, match=r"classes \[1\] have no description"):
        ensemble(model.text, tokens)
    with pytest.raises(ValueError, match="no descriptions of two"):
        prompt_tokens(["one", "two"], few, words)


def test_repeated_texts_are_computed_once_and_put_where_they_belong():
    model = pair().eval()
    lengths = []
    model.text.register_forward_hook(lambda module, given, out: lengths.append(len(given[0])))
    rows = torch.tensor([3, 1, 3, 3, 0, 1])
    out = model.encode_text(model.prompts[rows, 0])
    assert lengths == [3]
    assert torch.allclose(out, torch.cat([model.text(model.prompts[row, :1]) for row in rows.tolist()]), atol=1e-6)


@pytest.mark.parametrize("change", ["step", "in place", "load", "swap", "sentence", "lora"])
def test_kept_class_embeddings_follow_the_text_tower(change):
    model = pair().eval()
    calls = []
    model.text.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = model(images())
        assert torch.equal(model(images()), first) and len(calls) == 1  # kept
    if change == "step":
        model(images()).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.5).step()
    elif change == "in place":
        model.text.words.weight.data.mul_(-1.0)
    elif change == "load":
        model.load_state_dict(pair(seed=5).state_dict())
    elif change == "swap":
        model.text = pair(seed=5).eval().text
    elif change == "sentence":
        model.prompts[0] = model.prompts[1]
    else:
        lora.inject(model, "text.*", rank=2)
        for layer in lora.adapted(model).values():
            nn.init.normal_(layer.lora_B["default"])
    with torch.no_grad():
        now = model(images())
    fresh = copy.deepcopy(model)
    fresh._kept = None
    with torch.no_grad():
        assert torch.equal(fresh(images()), now)
    assert not torch.allclose(now, first)
    if change == "lora":
        lora.use(model, None)
        with torch.no_grad():
            assert torch.equal(model(images()), first)


def test_both_towers_and_the_temperature_learn_from_the_logits():
    model = pair()
    F.cross_entropy(model(images()), torch.arange(6)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias moves all of a query's scores alike, and the softmax does not see it.
    assert [name for name in without if "attention.key.bias" not in name] == []
    assert model.head.log_scale.grad.abs() > 0


def test_it_grows_by_sentences_and_no_further_than_there_are():
    model = pair(num_outputs=0)
    assert model.num_outputs == 0 and model.eval()(images()).shape == (6, 0)
    state = {name: value for name, value in weights(model).items() if name != "head.bias"}
    model.grow(4, torch.Generator())
    four = model(images())
    model.grow(9, torch.Generator())
    assert four.shape == (6, 4) and torch.equal(model(images())[:, :4], four)
    assert same({name: value for name, value in weights(model).items() if name != "head.bias"}, state)
    with pytest.raises(ValueError, match="cannot shrink to 3"):
        model.grow(3, torch.Generator())
    stream = digit_stream()
    with pytest.raises(ValueError, match=f"11 classes, but descriptions of {stream.num_outputs}"):
        model.grow(11, torch.Generator())


def test_building_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    assert same(weights(pair(seed=3)), weights(pair(seed=3))) and not same(weights(pair(seed=3)), weights(pair(seed=4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_any_tower_of_the_course_will_do():
    words = tokenizer()
    for name, options in (
        ("vit", {"patch_size": 4, "width": 16, "depth": 1, "num_heads": 2}),
        ("mlp", {"hidden": (8,)}),
    ):
        model = build_clip(
            digit_stream(), DIGITS, words, name, dim=6, text={"width": 8, "num_heads": 2}, num_outputs=3, **options
        )
        assert model(images()).shape == (6, 3) and "head" not in dict(model.image.named_children())


def test_copies_do_not_hold_on_to_a_graph():
    model = pair()
    out = model(images())
    duplicate = copy.deepcopy(model)
    assert duplicate._last is None
    assert model.embedding_of(out).shape == (6, 10)
    with pytest.raises(ValueError, match="not those of the last training pass"):
        duplicate.embedding_of(out)
    model(images())
    with pytest.raises(ValueError, match="put Contrastive and TextReplay before"):
        model.embedding_of(out)


def test_pairs_that_cannot_be():
    tower = models.build("mlp", digit_stream(), hidden=(8,))
    text = TextTransformer(20, 6, dim=4, width=8, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=r"prompts have shape \(2, 9\)"):
        CLIP(tower, text, torch.ones(2, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="length at most 6"):
        CLIP(tower, text, torch.ones(2, 1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="temperature=0.001 is below 0.01"):
        CLIP(tower, text, torch.ones(2, 1, 6, dtype=torch.int64), temperature=0.001)
