"""Descriptions, the table of signs, the tokenizer and the text transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import datasets
from course_utils.datasets.gtsrb import CLASSES
from course_utils.datasets.standins import faces
from course_utils.multimodal import TextTransformer, Tokenizer, descriptions, invented, signs
from course_utils.multimodal.tokenizer import BEGIN, END, PAD, UNKNOWN, split_words

TEXTS = ("a red circle", "a blue circle with an arrow", "red and white")

# ---------------------------------------------------------------- descriptions


@pytest.mark.parametrize(("name", "classes"), [("fashion_mnist", 10), ("digits", 10), ("gtsrb", 43), ("signs", 43)])
def test_every_class_has_five_descriptions_and_no_two_classes_share_one(name, classes):
    table = descriptions.of(name)
    assert len(table) == classes
    assert all(len(set(sentences)) == len(sentences) >= 5 for sentences in table.values())
    everything = [sentence for sentences in table.values() for sentence in sentences]
    assert len(set(everything)) == len(everything)
    assert all(len(split_words(sentence)) >= 4 for sentence in everything)


def test_descriptions_are_keyed_by_the_data_sets_own_names():
    data = datasets.load("digits")
    assert tuple(descriptions.of("digits")) == data.classes
    assert tuple(descriptions.of("gtsrb")) == CLASSES
    with pytest.raises(ValueError, match="no descriptions of 'cifar'; there are for fashion_mnist"):
        descriptions.of("cifar")


def test_the_callers_dictionary_is_a_copy():
    descriptions.of("digits").pop("zero")  # type: ignore[attr-defined]
    assert "zero" in descriptions.of("digits")


def test_templates_go_around_names():
    made = descriptions.from_templates(["cat", "dog"], ["a {}", "the {} there"])
    assert made == {"cat": ("a cat", "the cat there"), "dog": ("a dog", "the dog there")}
    with pytest.raises(ValueError, match="every one needs {} once"):
        descriptions.from_templates(["cat"], ["a photo"])


# ---------------------------------------------------------------- signs


def test_the_table_has_every_class_once_and_no_two_alike():
    assert sorted(signs.SIGNS) == list(range(43))
    looks = {tuple(sign.attributes.values()) for sign in signs.SIGNS.values()}
    assert len(looks) == 43


def test_the_table_agrees_with_the_names_of_the_classes():
    for label, name in enumerate(CLASSES):
        sign, words = signs.SIGNS[label], name.split()
        assert sign.stripes == (words[0] == "end"), name
        assert sign.side == next((word for word in ("left", "right") if word in words), ""), name
        numbers = [word for word in words if word.isdigit()]
        assert not numbers or sign.picture == numbers[0], name
    assert signs.SIGNS[14].shape == "octagon" and signs.SIGNS[13].shape == "upturned triangle"


def test_the_table_agrees_with_the_stand_in():
    """Drawn from the table alone, every sign looks most like the stand-in's face of its own class."""

    def pixels(image):
        return np.asarray(image.resize((32, 32)), dtype=np.float64).ravel()

    ours = np.stack([pixels(invented.draw(signs.SIGNS[label])) for label in range(43)])
    for label in range(43):
        distances = np.abs(ours - pixels(faces.draw_face(label))).mean(axis=1)
        assert distances.argmin() == label, (label, distances.argmin())


@pytest.mark.parametrize("label", range(43))
def test_sentences_name_every_part(label):
    sign = signs.SIGNS[label]
    for sentence in signs.describe(sign):
        words = split_words(sentence)
        assert sign.border in words and sign.field in words
        assert any(set(split_words(shape)) <= set(words) for shape in signs.SHAPES[sign.shape])
        assert (sign.side in words) if sign.side else not {"left", "right"} & set(words)
        assert ("struck" in words) == sign.stripes and ("without" in words) != sign.stripes


def test_what_is_held_out_is_seen_in_parts():
    table = {label: sign.attributes for label, sign in signs.SIGNS.items()}
    for seed in range(5):
        held = signs.held_out_classes(8, seed)
        assert held == sorted(set(held)) and len(held) == 8 == len(signs.held_out_classes(8, seed))
        training = [table[label] for label in table if label not in held]
        for label in held:
            assert table[label] not in training  # the combination is new
            for question, answer in table[label].items():
                assert any(parts[question] == answer for parts in training)  # its parts are not
        # Nor its words: every word of a held-out sign is read in training.
        read = {w for c in table if c not in held for s in signs.describe(signs.SIGNS[c]) for w in split_words(s)}
        assert {w for c in held for s in signs.describe(signs.SIGNS[c]) for w in split_words(s)} <= read
    assert signs.held_out_classes(5, 0) != signs.held_out_classes(5, 1)


def test_a_small_table_by_hand():
    table = {
        0: {"shape": "circle", "colour": "red"},
        1: {"shape": "circle", "colour": "blue"},
        2: {"shape": "square", "colour": "red"},
        3: {"shape": "square", "colour": "blue"},
        4: {"shape": "star", "colour": "red"},
    }
    assert signs.holdable(table) == [0, 1, 2, 3]  # nothing else is a star
    assert signs.holdable(table, held_out=[0]) == [2, 3]  # without 0 and 1 there would be no circle
    assert signs.unseen_parts(table, [0, 1]) == [(0, "shape", "circle"), (1, "shape", "circle")]
    assert signs.held_out_classes(1, 0, table, among=[3]) == [3]
    with pytest.raises(ValueError, match="5 classes cannot be held out: .* ask for 1 to 2"):
        signs.held_out_classes(5, 0, table)
    with pytest.raises(ValueError, match="0 classes cannot be held out"):
        signs.held_out_classes(0)


def test_what_can_be_guessed_from_the_plate():
    held = [6, 10, 20, 32, 34]  # end, prohibition, warning, end, order
    guesses = {label: [c for c in held if all(
        signs.SIGNS[c].attributes[q] == signs.SIGNS[label].attributes[q] for q in signs.PLATE
    )] for label in held}  # fmt: skip
    assert signs.guess_from(signs.PLATE, held) == pytest.approx(sum(1 / len(g) for g in guesses.values()) / 5) == 0.8
    assert signs.guess_from((), held) == 0.2 and signs.guess_from(("picture",), [5, 6]) == 0.5
    assert signs.guess_from(("a",), [0, 1], {0: {"a": 1}, 1: {"a": 2}}) == 1.0
    with pytest.raises(ValueError, match=r"unknown questions \['size'\]"):
        signs.guess_from(("size",), held)


# ---------------------------------------------------------------- tokenizer


def test_words_become_numbers_and_words_again():
    tokenizer = Tokenizer.build(TEXTS)
    assert tokenizer.context_length == 6 + 2 and tokenizer.vocab_size == 4 + 9
    tokens = tokenizer(TEXTS)
    assert tokens.shape == (3, 8) and tokens.dtype == torch.int16
    assert tokenizer.decode(tokens) == list(TEXTS)
    assert (tokens[:, 0] == BEGIN).all() and (tokens == END).sum(dim=1).tolist() == [1, 1, 1]
    assert tokens[0].tolist()[4:] == [END, PAD, PAD, PAD]
    assert torch.equal(tokenizer("a red circle"), tokens[:1])


def test_case_and_punctuation_do_not_matter():
    tokenizer = Tokenizer.build(TEXTS)
    assert torch.equal(tokenizer("A RED, circle!"), tokenizer("a red circle"))
    assert split_words("T-shirt/top: 80 Größe_x") == ["t", "shirt", "top", "80", "größe", "x"]


def test_unknown_words_are_marked_and_named():
    tokenizer = Tokenizer.build(TEXTS)
    row = tokenizer("a green circle")[0].tolist()
    assert row[:5] == [BEGIN, tokenizer.ids["a"], UNKNOWN, tokenizer.ids["circle"], END]
    assert tokenizer.unknown("A green green tree, red") == ["green", "tree"] and tokenizer.unknown("red") == []
    assert tokenizer.decode(tokenizer("green")) == ["<unknown>"]


def test_long_texts_lose_words_and_keep_their_end():
    tokenizer = Tokenizer.build(TEXTS, context_length=5)
    row = tokenizer("a blue circle with an arrow")[0].tolist()
    assert row == [BEGIN, *(tokenizer.ids[word] for word in ("a", "blue", "circle")), END]
    assert tokenizer("")[0].tolist() == [BEGIN, END, PAD, PAD, PAD]


def test_the_vocabulary_depends_on_the_words_alone():
    first, second = Tokenizer.build(TEXTS), Tokenizer.build(reversed(TEXTS))
    assert first.words == second.words == ("a", "circle", "red", "an", "and", "arrow", "blue", "white", "with")
    assert Tokenizer.build(TEXTS, min_count=2).words == ("a", "circle", "red")


def test_a_tokenizer_travels(tmp_path):
    tokenizer = Tokenizer.build(TEXTS, context_length=7)
    tokenizer.save(tmp_path / "words.json")
    again = Tokenizer.load(tmp_path / "words.json")
    assert again.words == tokenizer.words and torch.equal(again(TEXTS), tokenizer(TEXTS))
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="other.json is not a saved tokenizer"):
        Tokenizer.load(tmp_path / "other.json")


def test_tokenizers_that_cannot_be():
    with pytest.raises(ValueError, match="context_length=2 leaves no room"):
        Tokenizer(["a"], 2)
    with pytest.raises(ValueError, match="the same word twice"):
        Tokenizer(["a", "a"])
    with pytest.raises(ValueError, match="single words in lower case"):
        Tokenizer(["a b"])
    with pytest.raises(ValueError, match="2 texts hold no word"):
        Tokenizer.build(["", "!"])
    with pytest.raises(ValueError, match="do not fit 16-bit"):
        Tokenizer([f"w{i}" for i in range(33_000)])("w1")


# ---------------------------------------------------------------- text transformer


def tower(pool="mean", depth=2, length=9) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(20, length, dim=8, width=16, depth=depth, num_heads=2, pool=pool).double()


SENTENCES = torch.tensor([[BEGIN, 5, 6, END, PAD, PAD], [BEGIN, 7, 8, 9, 10, END]])
every_pool = pytest.mark.parametrize("pool", ["mean", "end"])


@every_pool
def test_texts_become_unit_vectors(pool):
    out = tower(pool)(SENTENCES)
    assert out.shape == (2, 8) and torch.allclose(out.norm(dim=1), torch.ones(2).double())


@every_pool
def test_padding_is_not_looked_at(pool):
    model = tower(pool)
    out = model(SENTENCES)
    assert torch.allclose(model(SENTENCES[:1, :4]), out[:1], atol=1e-12)
    assert torch.allclose(model(torch.nn.functional.pad(SENTENCES, (0, 3), value=PAD)), out, atol=1e-12)
    with torch.no_grad():
        model.words.weight[PAD] += 100.0
    assert torch.allclose(model(SENTENCES), out, atol=1e-12)


@every_pool
def test_it_computes_what_pytorchs_own_encoder_computes(pool):
    model = tower(pool)
    x = model.words(SENTENCES) + model.positions[:, :6]
    for block in model.blocks:
        reference = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", norm_first=True, batch_first=True).double()
        attention = block.attention
        three = (attention.query, attention.key, attention.value)
        with torch.no_grad():
            reference.self_attn.in_proj_weight.copy_(torch.cat([layer.weight for layer in three]))
            reference.self_attn.in_proj_bias.copy_(torch.cat([layer.bias for layer in three]))
            for ours, theirs in [
                (attention.out, reference.self_attn.out_proj), (block.mlp.up, reference.linear1),
                (block.mlp.down, reference.linear2), (block.norm1, reference.norm1), (block.norm2, reference.norm2),
            ]:  # fmt: skip
                theirs.load_state_dict(ours.state_dict())
        x = reference(x, src_key_padding_mask=SENTENCES == PAD)
    x = nn.functional.layer_norm(x, (16,), model.norm.weight, model.norm.bias)
    expected = []
    for row, length in zip(x, (4, 6), strict=True):
        pooled = row[:length].mean(dim=0) if pool == "mean" else row[length - 1]
        vector = model.project.weight @ pooled
        expected.append(vector / vector.norm())
    assert torch.allclose(model(SENTENCES), torch.stack(expected), atol=1e-10)


def test_the_order_of_words_matters():
    model = tower()
    swapped = SENTENCES[1:].clone()
    swapped[0, 1:3] = swapped[0, 1:3].flip(0)
    assert not torch.allclose(model(swapped), model(SENTENCES[1:]), atol=1e-6)


def test_tokens_of_another_tokenizer_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 12\); expected \(texts, length\) with length at most 9"):
        tower()(torch.ones(1, 12, dtype=torch.int16))
    with pytest.raises(ValueError, match="pool='max' is unknown; choose one of end, mean"):
        TextTransformer(5, 5, pool="max")
