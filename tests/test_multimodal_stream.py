"""The pair in a stream: scoring, growing, replay, other methods, saving and resuming."""

from __future__ import annotations

import copy

import pytest
import torch
from core_helpers import Recorder, digit_stream, digits, interrupted, same, weights

from course_utils import lora, methods, streams
from course_utils.learner import Learner
from course_utils.multimodal import (
    CLIP,
    Contrastive,
    Tokenizer,
    build_clip,
    contrastive_loss,
    descriptions,
    prompt_tokens,
    same_pairs,
    with_text,
)
from course_utils.streams import Samples

DIGITS = descriptions.of("digits")
WORDS = Tokenizer.build(sentence for sentences in DIGITS.values() for sentence in sentences)


def text_stream(scenario: str = "class", seed: int = 0):
    return with_text(digit_stream(scenario), DIGITS, WORDS, seed)


def network(stream, seed: int = 0) -> CLIP:
    text = {"width": 16, "num_heads": 2, "depth": 1}
    return build_clip(stream, DIGITS, WORDS, "mlp", seed, hidden=(16,), dim=8, text=text)


def learner(stream, wanted=(), **options) -> Learner:
    options = {"steps_per_task": 6, "batch_size": 8, "lr": 0.01, "show_progress": False, **options}
    return Learner(network(stream), list(wanted), **options)


# ---------------------------------------------------------------- captions travel


def test_every_training_image_gets_a_sentence_of_its_class():
    stream = text_stream()
    allowed = {name: {tuple(row) for row in WORDS(list(texts)).tolist()} for name, texts in DIGITS.items()}
    found = set()
    for task in stream:
        text = task.train.fields["text"]
        assert text.shape == (len(task.train), WORDS.context_length) and text.dtype == torch.int16
        for y, row in zip(task.train.y.tolist(), text.tolist(), strict=True):
            assert tuple(row) in allowed[stream.class_names[y]]
            found.add(tuple(row))
    assert len(found) > 35  # of 50
    assert same([t.train.fields for t in text_stream()], [t.train.fields for t in stream])
    assert not same([t.train.fields["text"] for t in text_stream(seed=1)], [t.train.fields["text"] for t in stream])


def test_test_images_get_none():
    for task in text_stream():
        assert "text" not in task.test.fields and "text" not in task.validation.fields


def test_captions_follow_the_order_of_the_classes_in_the_stream():
    plain = streams.class_incremental(digits(), class_splits=[(7, 2), (4,)], limit=5)
    stream = with_text(plain, DIGITS, WORDS)
    sevens = stream[0].train.fields["text"][stream[0].train.y == 0]
    assert set(WORDS.decode(sevens)) <= {" ".join(WORDS.decode(WORDS(text))) for text in DIGITS["seven"]}
    assert torch.equal(network(stream).prompts, prompt_tokens(["seven", "two", "four"], DIGITS, WORDS))


def test_a_class_without_a_sentence_is_an_error():
    with pytest.raises(ValueError, match="no descriptions of nine"):
        with_text(digit_stream(), {name: texts for name, texts in DIGITS.items() if name != "nine"}, WORDS)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_it_learns_and_remembers_with_replay(scenario):
    stream = text_stream(scenario)
    run = learner(stream, [methods.Replay(60), Contrastive()], steps_per_task=150, batch_size=16)
    history = run.fit(stream)
    assert history.accuracy.shape == (3, 3) and history.overall[-1] > 0.6
    alone = learner(stream, [Contrastive()], steps_per_task=150, batch_size=16).fit(stream)
    if scenario == "class":
        assert alone.accuracy[-1, 0] < 0.3 < 0.5 < history.accuracy[-1, 0]


def test_as_many_classes_compete_as_have_been_seen():
    stream = text_stream()
    run = learner(stream, [Recorder()])
    widths = []
    run.model.head.register_forward_hook(lambda *_: widths.append(run.model.num_outputs))
    run.fit(stream)
    assert sorted(set(widths)) == [task.outputs for task in stream]
    assert run.predict(stream[0].test.x).shape == (len(stream[0].test), stream.num_outputs)
    assert run.history.accuracy[2, 0] == run.score(stream[0].test, stream[2])


def test_the_loss_is_the_mixture_that_it_says():
    stream = text_stream()
    seen = []

    class Spy(methods.Method):
        def loss(self, learner, batch, out, loss):
            model = copy.deepcopy(learner.model)
            image, text = model.encode_image(batch["input"]), model.encode_text(batch["text"])
            positives = same_pairs(batch["y"], batch["text"])
            pairs = contrastive_loss(image, text, model.head.scale, positives)
            seen.append((float(loss.detach()), float((0.3 * pairs + 0.7 * learner.task_loss).detach())))
            return loss

    learner(stream, [methods.Replay(20), Contrastive(0.3), Spy()]).fit(stream)
    assert len(seen) == 18
    assert all(found == pytest.approx(expected, rel=1e-5) for found, expected in seen)


def test_weight_zero_is_the_learners_own_loss():
    stream = text_stream()
    runs = [learner(stream, wanted) for wanted in ([], [Contrastive(0.0)], [Contrastive(1.0)])]
    for run in runs:
        run.fit(stream)
    plain, none, full = (weights(run.model) for run in runs)
    assert same(plain, none) and not same(plain, full)


def test_replayed_images_bring_their_captions():
    stream = text_stream()
    recorder = Recorder()
    learner(stream, [methods.Replay(20), Contrastive(), recorder]).fit(stream)
    pairs = {
        (row.numpy().tobytes(), text.numpy().tobytes())
        for task in stream for row, text in zip(task.train.x, task.train.fields["text"], strict=True)
    }  # fmt: skip
    replayed = 0
    for batch in recorder.batches[1] + recorder.batches[2]:
        for i in torch.nonzero(batch["replayed"]).flatten():
            assert (batch["x"][i].numpy().tobytes(), batch["text"][i].numpy().tobytes()) in pairs
            replayed += 1
    assert replayed == 2 * 6 * 8


def test_the_scale_stays_in_bounds():
    stream = text_stream()
    run = learner(stream, [Contrastive(1.0)], lr=2.0, steps_per_task=3)
    with torch.no_grad():
        run.model.head.log_scale.fill_(4.6)
    run.fit(stream)
    assert run.model.head.log_scale <= torch.log(torch.tensor(100.0))
    assert run.model.head.scale <= 100.0 + 1e-3


def test_at_test_time_nothing_but_the_image_is_seen():
    stream = text_stream()
    run = learner(stream, [methods.Replay(20), Contrastive()])
    run.fit(stream)
    test = stream[1].test
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    scrambled = Samples({**test.fields, "y": test.y[order], "text": torch.ones(len(test), 3)})
    bare = Samples({"x": test.x, "y": torch.zeros_like(test.y), "task": test.fields["task"]})
    assert torch.equal(run.predict(scrambled.x), run.predict(test.x))
    right = run.predict(test.x).argmax(dim=1)
    for given in (test, scrambled, bare):
        assert run.score(given, stream[2]) == pytest.approx((right == given.y).double().mean().item())


# ---------------------------------------------------------------- company


@pytest.mark.parametrize(
    "wanted",
    [
        lambda: [methods.Replay(20), Contrastive(), methods.Distill()],
        lambda: [Contrastive(), methods.EWC(10.0)],
        lambda: [Contrastive(), methods.L2(1.0)],
        lambda: [Contrastive(), methods.SI(1.0)],
        lambda: [methods.Joint(), Contrastive()],
        lambda: [methods.GDumb(20), Contrastive()],
        lambda: [Contrastive(), methods.DERpp(20)],
        lambda: [Contrastive(), methods.AGEM(20)],
        lambda: [lora.LoRA(2, 4.0), methods.Replay(20), Contrastive()],
        lambda: [lora.LoRA(2, 4.0, patterns="image.*", adapters="merged"), methods.Replay(20), Contrastive()],
    ],
    ids=["distill", "ewc", "l2", "si", "joint", "gdumb", "derpp", "agem", "lora", "lora merged"],
)
def test_it_composes_with_the_methods_of_the_course(wanted):
    stream = text_stream()
    run = learner(stream, wanted())
    history = run.fit(stream)
    assert (history.accuracy[2] == history.accuracy[2]).all()
    assert all(len(losses) == 6 for losses in history.losses)


def test_the_wrong_order_is_told():
    stream = text_stream()
    with pytest.raises(ValueError, match="put Contrastive and TextReplay before methods that call the network"):
        learner(stream, [methods.DERpp(20), Contrastive()]).fit(stream)


def test_what_it_needs_is_told():
    with pytest.raises(ValueError, match="Contrastive needs captions: make the stream with `multimodal.with_text`"):
        learner(digit_stream(), [Contrastive()]).fit(digit_stream())
    with pytest.raises(ValueError, match=r"weight=1.5 must be in \[0, 1\]"):
        Contrastive(1.5)
    with pytest.raises(ValueError, match="no descriptions of position 0"):
        with_text(digit_stream("domain"), DIGITS, WORDS)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize(
    "wanted",
    [
        lambda: [methods.Replay(20), Contrastive()],
        lambda: [methods.Replay(20), Contrastive(), methods.Distill()],
        lambda: [lora.LoRA(2, 4.0), methods.Replay(20), Contrastive()],
    ],
    ids=["replay", "distill", "lora"],
)
def test_a_run_that_was_interrupted_ends_in_the_same_bytes(tmp_path, wanted):
    stream, path = text_stream(), tmp_path / "run.pt"
    whole = learner(stream, wanted())
    whole.fit(stream)
    interrupted(learner(stream, wanted()), stream, path, 2, position=1, step=4)
    again = learner(stream, wanted())
    again.resume(path)
    again.fit(stream)
    assert same(weights(again.model), weights(whole.model))
    assert same([m.state_dict() for m in again.methods], [m.state_dict() for m in whole.methods])
    assert same(again.history.accuracy, whole.history.accuracy) and again.history.losses == whole.history.losses
    assert torch.equal(again.predict(stream[0].test.x), whole.predict(stream[0].test.x))


def test_a_run_with_another_weight_is_not_taken_up(tmp_path):
    stream, path = text_stream(), tmp_path / "run.pt"
    interrupted(learner(stream, [Contrastive(0.5)]), stream, path, 2, position=0, step=2)
    with pytest.raises(ValueError, match="other settings"):
        learner(stream, [Contrastive(0.6)]).resume(path)
