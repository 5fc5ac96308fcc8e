"""Memories of equal bytes: what fits, what is stored, what comes back."""

from __future__ import annotations

import math

import pytest
import torch
from core_helpers import Recorder, fingerprints, interrupted, make_learner, same, weights
from test_multimodal_stream import DIGITS, WORDS, learner, text_stream
from torch.nn import functional as F

from course_utils import methods
from course_utils.multimodal import CONTENTS, Contrastive, TextReplay, bytes_of, prompt_tokens, samples_within

BUDGET = 3000
every_content = pytest.mark.parametrize("content", CONTENTS)


def run(content, behind=(), **options):
    stream = text_stream()
    replay = TextReplay(BUDGET, content, **options)
    fitted = learner(stream, [replay, Contrastive(), *behind])
    fitted.fit(stream)
    return fitted, replay


# ---------------------------------------------------------------- bytes


def test_bytes_are_counted_by_the_numbers_types():
    fields = {
        "x": torch.zeros(5, 3, 4, 4, dtype=torch.uint8),
        "y": torch.zeros(5, dtype=torch.int64),
        "text": torch.zeros(5, 7, dtype=torch.int16),
        "embedding": torch.zeros(5, 6),
    }
    assert bytes_of(fields) == 48 + 8 + 14 + 24
    assert bytes_of(fields, ["x", "text"]) == 62
    with pytest.raises(ValueError, match="no field z; there are x, y, text, embedding"):
        bytes_of(fields, ["z"])


def test_how_many_fit_into_a_budget():
    fields = text_stream()[0].train.fields
    labels, image, words = 3 * 8, 64, 2 * WORDS.context_length
    found = samples_within(10_000, fields, dim=8)
    assert found == {
        "image": 10_000 // (labels + image),
        "image+text": 10_000 // (labels + image + words),
        "text": 10_000 // (labels + words),
        "text+embedding": 10_000 // (labels + words + 32),
    }
    assert set(samples_within(10_000, {k: v for k, v in fields.items() if k != "text"})) == {"image"}


@every_content
def test_a_memory_holds_no_more_than_its_budget(content):
    _, replay = run(content)
    stored = replay.buffer.all()
    assert set(stored) == set(CONTENTS[content])
    size = sum(value.numel() * value.element_size() for value in stored.values())
    assert len(replay.buffer) == replay.memory == samples_within(BUDGET, {**stored}, dim=8)[content]
    assert BUDGET - bytes_of(stored) < size <= BUDGET


# ---------------------------------------------------------------- images


def test_the_same_number_of_images_gives_the_same_run_as_replay_would_give_with_that_memory():
    """Everything but which samples are drawn agrees with `Replay`: number, balance, place in the batch."""
    recorder = Recorder()
    _, replay = run("image+text", [recorder])
    assert [len(batch["y"]) for batch in recorder.batches[0]] == [8] * 6
    for batch in recorder.batches[1] + recorder.batches[2]:
        assert batch["replayed"].tolist() == [False] * 8 + [True] * 8
        assert (batch["index"][8:] == -1).all() and (batch["task"][8:] < batch["task"][0]).all()
    counts = replay.buffer.all()["y"].bincount()
    assert counts.max() - counts.min() <= 1


def test_images_come_back_with_the_captions_that_they_were_stored_with():
    stream, recorder = text_stream(), Recorder()
    run("image+text", [recorder])
    captions = {
        mark: text.tolist()
        for task in stream
        for mark, text in zip(fingerprints(task.train.x), task.train.fields["text"], strict=True)
    }
    for batch in recorder.batches[2]:
        for mark, text in zip(fingerprints(batch["x"][8:]), batch["text"][8:], strict=True):
            assert captions[mark] == text.tolist()


def test_without_stored_captions_a_sentence_of_the_label_stands_in():
    stream, recorder = text_stream(), Recorder()
    run("image", [recorder])
    prompts = prompt_tokens(stream.class_names, DIGITS, WORDS)
    used = set()
    for batch in recorder.batches[1] + recorder.batches[2]:
        for y, text in zip(batch["y"][8:].tolist(), batch["text"][8:], strict=True):
            assert (prompts[y] == text).all(dim=1).any()
            used.add(tuple(text.tolist()))
    assert len(used) > 20


def test_images_alone_need_no_network_that_reads():
    from core_helpers import digit_stream

    stream, replay = digit_stream(), TextReplay(BUDGET, "image")
    make_learner(stream, [replay]).fit(stream)
    assert len(replay.buffer) == BUDGET // 88
    captioned, recorder = text_stream(), Recorder()
    make_learner(captioned, [TextReplay(BUDGET, "image"), recorder]).fit(captioned)
    last = recorder.batches[2][-1]
    assert last["text"][:8].any(dim=1).all() and not last["text"][8:].any()
    assert torch.equal(last["x"][:8], captioned[2].train.x[last["index"][:8]])


# ---------------------------------------------------------------- sentences alone


@pytest.mark.parametrize("content", ["text", "text+embedding"])
def test_stored_sentences_compete_with_the_descriptions(content):
    """The term by hand: cross-entropy over class scores and stored captions, plus the distance to what was stored."""
    stream, terms = text_stream(), []

    class Before(methods.Method):
        def loss(self, learner, batch, out, loss):
            self.given = loss
            return loss

    class Behind(methods.Method):
        def loss(self, learner, batch, out, loss):
            if learner.task.index == 0:
                return loss
            state = replay.buffer.generator.get_state()
            replay.buffer.generator.set_state(draws.pop())
            stored = replay.buffer.sample(8)
            replay.buffer.generator.set_state(state)
            model = learner.model
            text = torch.cat([model.text(row[None]) for row in stored["text"]])
            image = F.normalize(model.features(batch["input"]) @ model.head.projection.T, dim=1)
            total = 0.0
            for i, y in enumerate(batch["y"].tolist()):
                scores = [*out[i].tolist(), *((model.head.scale * image[i] @ t).item() for t in text)]
                total += math.log(sum(map(math.exp, scores))) - scores[y]
            expected = total / len(batch["y"])
            if content == "text+embedding":
                expected += 10.0 * (text - stored["embedding"]).square().sum(dim=1).mean().item()
            terms.append((float((loss - before.given).detach()), 0.5 * expected))
            return loss

    class Draws(methods.Method):
        def batch(self, learner, batch):
            draws.append(replay.buffer.generator.get_state())
            return batch

    draws: list = []
    replay, before = TextReplay(BUDGET, content, weight=0.5), Before()
    learner(stream, [Draws(), before, replay, Behind(), Contrastive()]).fit(stream)
    assert len(terms) == 12
    for found, expected in terms:
        assert found == pytest.approx(expected, rel=1e-4)


def test_stored_embeddings_are_those_of_the_end_of_their_task():
    stream, kept = text_stream(), {}

    class Copy(methods.Method):
        def after_task(self, learner, task, data):
            with torch.no_grad():
                kept[task.index] = learner.model.encode_text(data.fields["text"])

    replay = TextReplay(BUDGET, "text+embedding")
    learner(stream, [Copy(), replay, Contrastive()]).fit(stream)
    stored = replay.buffer.all()
    for task, text, embedding in zip(stored["task"], stored["text"], stored["embedding"], strict=True):
        row = (stream[int(task)].train.fields["text"] == text).all(dim=1).nonzero()[0, 0]
        assert torch.allclose(kept[int(task)][row], embedding, atol=1e-6)


def test_the_anchor_holds_the_text_tower():
    """The stronger it is, the less embeddings of stored sentences have moved since their task ended."""

    def drift(anchor):
        fitted, replay = run("text+embedding", anchor=anchor)
        stored = replay.buffer.all()
        with torch.no_grad():
            now = fitted.model.encode_text(stored["text"])
        return float((now - stored["embedding"]).norm(dim=1).mean())

    assert drift(1000.0) < 0.5 * drift(0.0)


def test_a_caption_of_the_images_own_class_is_no_mistake():
    stream = text_stream()
    fitted, replay = run("text")
    fields = {name: value.clone() for name, value in replay.buffer.all().items()}
    fields["y"][:] = stream[2].train.y[0]
    replay.buffer.fields = fields
    x, y = stream[2].train.x[:1], stream[2].train.y[:1]
    out = fitted.model(fitted.inputs(x))
    batch = {"y": y, "task": torch.tensor([2])}
    added = replay.loss(fitted, batch, out, torch.tensor(0.0))
    assert float(added.detach()) == pytest.approx(F.cross_entropy(out, y).item(), rel=1e-5)


# ---------------------------------------------------------------- life


@every_content
def test_a_run_that_was_interrupted_ends_in_the_same_bytes(tmp_path, content):
    stream, path = text_stream(), tmp_path / "run.pt"

    def make():
        return learner(stream, [TextReplay(BUDGET, content), Contrastive()])

    whole = make()
    whole.fit(stream)
    interrupted(make(), stream, path, 2, position=2, step=4)
    again = make()
    again.resume(path)
    again.fit(stream)
    assert same(weights(again.model), weights(whole.model)) and again.history.losses == whole.history.losses
    assert same([m.state_dict() for m in again.methods], [m.state_dict() for m in whole.methods])


@every_content
def test_the_seed_decides_and_a_used_memory_is_refused(content):
    first, second = run(content)[0], run(content)[0]
    other = run(content, seed=5)[0]
    assert same(weights(first.model), weights(second.model)) and not same(weights(first.model), weights(other.model))
    stream = text_stream()
    with pytest.raises(ValueError, match="already offered .* make a new method"):
        learner(stream, [first.methods[0]]).fit(stream)


def test_no_budget_is_no_memory():
    stream = text_stream()
    for content in CONTENTS:
        none = learner(stream, [TextReplay(10, content), Contrastive()])
        none.fit(stream)
        plain = learner(stream, [Contrastive()])
        plain.fit(stream)
        assert same(weights(none.model), weights(plain.model)) and none.methods[0].memory == 0


def test_what_cannot_be_is_told():
    from core_helpers import digit_stream

    with pytest.raises(ValueError, match="content='words' is unknown; choose one of image, image"):
        TextReplay(100, "words")
    with pytest.raises(ValueError, match="budget=-1, weight=1.0"):
        TextReplay(-1)
    with pytest.raises(ValueError, match=r"content='image\+text' needs captions"):
        make_learner(digit_stream(), [TextReplay(100)]).fit(digit_stream())
    with pytest.raises(ValueError, match="holds sentences alone; it needs a network that reads them"):
        make_learner(text_stream(), [TextReplay(100, "text")]).fit(text_stream())
