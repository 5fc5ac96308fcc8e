"""Zero-shot answers and retrieval against brute force; invented signs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_multimodal_stream import DIGITS, WORDS, learner, text_stream
from torch.nn import functional as F

from course_utils import datasets
from course_utils.multimodal import descriptions, ensemble, invented, signs, zero_shot
from course_utils.multimodal.signs import SIGNS, Sign


def unit(n: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def trained(steps: int = 3):
    stream = text_stream()
    run = learner(stream, steps_per_task=steps)
    run.fit(stream)
    return stream, run


# ---------------------------------------------------------------- embeddings


def test_embeddings_are_those_of_eval_mode_and_the_mode_comes_back():
    stream, run = trained()
    x = stream[0].test.x
    run.model.train()
    found = zero_shot.image_embeddings(run.model, x)
    assert run.model.training and not found.requires_grad
    run.model.eval()
    with torch.no_grad():
        assert torch.allclose(found, run.model.encode_image(x.float() / 255), atol=1e-6)
    assert torch.equal(zero_shot.image_embeddings(run.model, x.float() / 255), found)
    names = ["two", "nine"]
    classes = zero_shot.class_embeddings(run.model, WORDS, DIGITS, names)
    for name, vector in zip(names, classes, strict=True):
        each = zero_shot.text_embeddings(run.model, WORDS, DIGITS[name])
        assert torch.allclose(vector, F.normalize(each.mean(dim=0), dim=0), atol=1e-5)


def test_the_stream_and_zero_shot_give_the_same_answers():
    stream, run = trained()
    classes = zero_shot.class_embeddings(run.model, WORDS, DIGITS, stream.class_names)
    for task in stream:
        image = zero_shot.image_embeddings(run.model, task.test.x)
        assert torch.equal(zero_shot.classify(image, classes), run.predict(task.test.x).argmax(dim=1))
        assert zero_shot.accuracy(image, classes, task.test.y) == run.history.accuracy[2, task.index]


def test_a_class_can_be_asked_for_before_it_was_seen():
    """One task learned: the learner answers with its 4 classes, sentences reach all of them."""
    stream = text_stream()
    run = learner(stream)
    run.fit(stream.first(1))
    assert run.predict(stream[2].test.x).shape[1] == 4
    image = zero_shot.image_embeddings(run.model, stream[2].test.x)
    classes = zero_shot.class_embeddings(run.model, WORDS, DIGITS, stream.class_names)
    assert set(zero_shot.classify(image, classes).tolist()) <= set(range(stream.num_outputs))


# ---------------------------------------------------------------- accuracy, ranks


def test_accuracy_is_counted_among_the_classes_that_compete():
    classes, image = unit(5, 1), unit(40, 2)
    y = torch.arange(40) % 5
    for among in (None, [1, 3], [4, 0, 2]):
        labels = list(range(5)) if among is None else among
        right = []
        for vector, label in zip(image, y.tolist(), strict=True):
            if label in labels:
                right.append(max(labels, key=lambda c, v=vector: float(v @ classes[c])) == label)
        assert zero_shot.accuracy(image, classes, y, among) == pytest.approx(sum(right) / len(right))
    with pytest.raises(ValueError, match=r"none of the 3 images has a label among \[4\]"):
        zero_shot.accuracy(image[:3], classes, y[:3], [4])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_is_counted_by_brute_force(k):
    image, text = unit(12, 1), unit(7, 2)
    positives = torch.rand(12, 7, generator=torch.Generator().manual_seed(3)) < 0.2
    positives[0] = False  # an image without a text does not count
    positives[1, 2] = True

    def brute(queries, keys, right):
        hits = []
        for i in range(len(queries)):
            order = sorted(range(len(keys)), key=lambda j: -float(queries[i] @ keys[j]))
            if right[i].any():
                hits.append(any(right[i, j] for j in order[:k]))
        return sum(hits) / len(hits)

    expected = (brute(image, text, positives), brute(text, image, positives.T))
    assert zero_shot.recall_at(image, text, positives, k) == pytest.approx(expected)


def test_recall_by_hand():
    image = torch.eye(3)
    text = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.5, 1.0, 0.0], [0.0, 0.5, 0.4]]), dim=1)
    pairs = torch.eye(3, dtype=torch.bool)
    # Every image is nearest to its text; text 2 is nearer to image 1 than to its own.
    assert zero_shot.recall_at(image, text, pairs, 1) == (1.0, pytest.approx(2 / 3))
    assert zero_shot.recall_at(image, text, pairs, 2) == (1.0, 1.0)
    with pytest.raises(ValueError, match="k=4; choose 1 to 3"):
        zero_shot.recall_at(image, text, pairs, 4)
    with pytest.raises(ValueError, match="0 pairs"):
        zero_shot.recall_at(image, text, ~(pairs | True), 1)


def test_a_typed_sentence_ranks_images_and_classes():
    stream, run = trained()
    image = zero_shot.image_embeddings(run.model, stream[0].test.x)
    sentence = DIGITS["three"][1]
    query = zero_shot.text_embeddings(run.model, WORDS, [sentence])[0]
    scores = (image @ query).tolist()
    found = zero_shot.rank_images(run.model, WORDS, sentence, image, count=4)
    assert [match.which for match in found] == sorted(range(len(scores)), key=lambda i: -scores[i])[:4]
    assert [match.similarity for match in found] == pytest.approx(sorted(scores, reverse=True)[:4])
    classes = zero_shot.class_embeddings(run.model, WORDS, DIGITS, stream.class_names)
    names = zero_shot.rank_classes(run.model, WORDS, sentence, classes, stream.class_names, count=99)
    assert len(names) == len(stream.class_names)
    assert names[0].which == max(stream.class_names, key=lambda n: float(classes[stream.class_names.index(n)] @ query))
    with pytest.raises(ValueError, match="'purple elephants!' holds no word that this network has read"):
        zero_shot.rank_images(run.model, WORDS, "purple elephants!", image)


# ---------------------------------------------------------------- invented signs


def test_invented_signs_are_new_and_use_known_words():
    made = invented.invent(60, seed=1)
    looks = [tuple(sign.attributes.values()) for sign in made]
    assert len(set(looks)) == 60
    assert not set(looks) & {tuple(sign.attributes.values()) for sign in SIGNS.values()}
    parts = {(q, a) for sign in SIGNS.values() for q, a in sign.attributes.items()}
    assert {(q, a) for sign in made for q, a in sign.attributes.items()} <= parts
    words = {
        w for s in SIGNS.values() for t in signs.describe(s) for w in t.replace(",", " ").replace(":", " ").split()
    }
    assert {w for s in made for t in signs.describe(s) for w in t.replace(",", " ").replace(":", " ").split()} <= words
    assert {sign.picture for sign in made} == {sign.picture for sign in SIGNS.values()}  # pictures take turns
    assert made == invented.invent(60, seed=1) != invented.invent(60, seed=2)
    assert not set(invented.invent(60, seed=1, exclude=made)) & set(made)
    with pytest.raises(ValueError, match="907 signs are left to invent"):
        invented.invent(5000)


def test_every_sign_can_be_drawn_and_looks_like_no_other():
    pictures = {invented.draw(sign).resize((48, 48)).tobytes() for sign in invented.every_sign()}
    assert len(pictures) == len(invented.every_sign()) == 950
    with pytest.raises(ValueError, match="cannot be drawn; shapes are circle"):
        invented.draw(Sign("hexagon", "red", "white", "truck"))


def test_a_side_is_the_mirror_image():
    for picture in invented.WITH_A_SIDE:
        left, right = (
            np.asarray(invented.draw(Sign("octagon", "red", "white", picture, "black", side))).astype(int)
            for side in ("left", "right")
        )
        apart, mirrored = np.abs(left - right).mean(), np.abs(left - right[:, ::-1]).mean()
        assert mirrored < 0.1 * apart, picture


def test_photographs_are_labelled_and_do_not_depend_on_their_company(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    first, second, third = invented.invent(3, seed=0)
    data = invented.load([first, second, third], 4, 2)
    assert data.standin and data.image_shape == (3, 32, 32) and "stand-in" in data.title
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 3, 6)
    assert data.train.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (
        data.classes
        == tuple(invented.name_of(s) for s in (first, second, third))
        == tuple(invented.descriptions([first, second, third]))
    )
    alone = invented.load([third], 4, 2)
    assert np.array_equal(alone.train.x, data.train.x[8:])
    assert not np.array_equal(invented.load([third], 4, 2, seed=1).train.x, alone.train.x)
    assert len({image.tobytes() for image in data.train.x} | {image.tobytes() for image in data.test.x}) == 18
    with pytest.raises(ValueError, match="2 signs of which 1 are different"):
        invented.load([first, first])


def test_invented_signs_stand_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)

    def part(count):
        y = np.arange(count) % 43
        return rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), y

    real = datasets.from_arrays(train=part(86), validation=part(43), test=part(43), name="road")
    made = invented.invent(2)
    both = invented.beside(real, made, train_per_class=3)
    assert both.classes[43:] == tuple(invented.descriptions(made)) and both.num_classes >= 45
    assert np.array_equal(both.train.x[:86], real.train.x) and both.test is real.test
    assert both.train.y[86:].tolist() == [real.num_classes] * 3 + [real.num_classes + 1] * 3
    assert len(set(both.train.group[86:]) & set(both.train.group[:86])) == 0
    assert set(descriptions.of("gtsrb")) & set(both.classes) <= set(descriptions.of("gtsrb"))
    grey = datasets.load("digits")
    with pytest.raises(ValueError, match="invented signs are"):
        invented.beside(grey, made)


def test_an_ensemble_of_one_is_the_text_itself():
    _, run = trained()
    tokens = WORDS(["a straight vertical line"])
    with torch.no_grad():
        assert torch.allclose(ensemble(run.model.text, tokens[None]), run.model.text(tokens), atol=1e-6)
