"""Methods against loops written by hand, and the properties that separate them from their usual bugs."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from core_helpers import (
    Recorder,
    Scramble,
    digit_stream,
    fingerprints,
    fitted_weights,
    make_learner,
    regression_stream,
    same,
    unique_stream,
    weights,
)
from torch.nn import functional as F

from course_utils import methods, metrics, models, seeding
from course_utils.learner import Learner


def everyone(memory: int = 20, kind: str = "class"):
    replay = methods.Replay(memory)
    identity = {"class": "inferred", "task": None}.get(kind, "given")
    return {
        "fine-tuning": [],
        "joint": [methods.Joint()],
        "replay": [methods.Replay(memory)],
        "reservoir": [methods.Replay(memory, "reservoir", batch_size=5)],
        "distinct": [methods.Replay(memory, distinct=True)],
        "distillation": [methods.Distill()],
        "replay + distillation": [methods.Replay(memory), methods.Distill()],
        "GDumb": [methods.GDumb(memory)],
        "DER++": [methods.DERpp(memory)],
        "DER++ refreshed": [methods.DERpp(memory, refresh=True)],
        "calibrated": [replay, methods.BalancedFinetune(replay, steps=2), methods.WeightAlign()],
        "L2": [methods.L2()],
        "EWC": [methods.EWC()],
        "online EWC": [methods.EWC(online=True, decay=0.9, labels="all", samples=9)],
        "SI": [methods.SI()],
        "MAS": [methods.MAS()],
        "A-GEM": [methods.AGEM(memory)],
        "GEM": [methods.GEM(memory, margin=0.1)],
        "PackNet": [methods.PackNet(identity=identity)],
    }


NAMES = list(everyone())
WEIGHTS_SIDE = ("L2", "EWC", "online EWC", "SI", "MAS", "A-GEM", "GEM", "PackNet")
STREAMS = {
    "class": lambda: digit_stream("class"),
    "task": lambda: digit_stream("task"),
    "domain": lambda: digit_stream("domain"),
    "regression": regression_stream,
}

# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_on_every_kind_of_stream(name, kind):
    stream = STREAMS[kind]()
    learner = make_learner(stream, everyone(kind=kind)[name])
    history = learner.fit(stream)
    assert np.isfinite(history.accuracy[-1]).all()
    assert all(value.isfinite().all() for value in weights(learner.model).values())
    assert history.steps.tolist() == [8, 8, 8]


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_all_methods_but_two_share_the_weights_after_the_first_task(model):
    stream = digit_stream().first(1)
    reference = fitted_weights(stream, model=model)
    for name, wanted in everyone().items():
        shared = name not in ("GDumb", "PackNet")  # which train on other data, and with fewer weights
        assert same(fitted_weights(stream, wanted, model=model), reference) == shared, name


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", WEIGHTS_SIDE)
def test_methods_on_weights_and_gradients_repeat_with_the_seed_and_compose_with_replay(name, kind):
    """Beside rehearsal they run in either order to the same bytes: no hook of the one changes what the other sees."""
    stream = STREAMS[kind]()

    def run(first=(), last=(), **options):
        return fitted_weights(stream, [*first, *everyone(kind=kind)[name], *last], **options)

    state = torch.get_rng_state()
    alone = run()
    assert torch.equal(torch.get_rng_state(), state)  # the global generator has no say and is left alone
    torch.rand(3)
    assert same(run(), alone) and not same(run(seed=1), alone)
    together = run(first=[methods.Replay(10)])
    assert same(run(last=[methods.Replay(10)]), together)
    assert not same(together, alone) and not same(together, fitted_weights(stream, [methods.Replay(10)]))


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
@pytest.mark.parametrize("name", WEIGHTS_SIDE)
def test_methods_on_weights_and_gradients_differ_from_fine_tuning(name, model):
    stream = digit_stream()
    assert not same(fitted_weights(stream, everyone()[name], model=model), fitted_weights(stream, model=model))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [methods.Distill(alpha=0)],
        lambda: [methods.Replay(0)],
        lambda: [methods.Replay(0, "reservoir")],
        lambda: [methods.DERpp(20, alpha=0, beta=0)],
        lambda: [methods.DERpp(0)],
    ],
    ids=["Distill(alpha=0)", "Replay(0)", "reservoir of 0", "DERpp(alpha=beta=0)", "DERpp(0)"],
)
@pytest.mark.parametrize("kind", STREAMS)
def test_strength_zero_is_fine_tuning_bit_for_bit(make, kind):
    stream = STREAMS[kind]()
    model = "mlp" if kind == "regression" else "small_cnn"  # BatchNorm would notice a stray forward pass
    assert same(fitted_weights(stream, make(), model=model), fitted_weights(stream, model=model))


@pytest.mark.parametrize("kind", STREAMS)
def test_a_large_strength_is_not_fine_tuning(kind):
    stream = STREAMS[kind]()
    plain = fitted_weights(stream)
    for make in (
        methods.Distill(0.9),
        methods.Replay(20),
        methods.DERpp(20, alpha=5, beta=0),
        methods.DERpp(20, alpha=0),
    ):
        assert not same(fitted_weights(stream, [make]), plain), make.name


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stronger_teacher_holds_the_old_answers_better(kind):
    stream = STREAMS[kind]().first(2)
    old = stream[0].test.x

    def drift(alpha):
        recorder = Recorder()
        learner = make_learner(stream, [methods.Distill(alpha), recorder], steps=40)
        learner.fit(stream)
        learner.model.eval()
        x = learner.inputs(old)
        before = recorder.before[1].eval()(x).detach()
        after = learner.model(x)[:, : before.shape[1]].detach()
        if kind != "regression":
            before, after = before.softmax(1), after.softmax(1)
        return (before - after).abs().mean().item()

    assert drift(0.99) < 0.5 * drift(0.0)


def test_a_used_method_is_refused_by_a_second_run():
    """A memory that already holds later tasks would leak the future."""
    stream = digit_stream()
    for method in (methods.Replay(20), methods.GDumb(20), methods.DERpp(20)):
        make_learner(stream, [method]).fit(stream)
        with pytest.raises(ValueError, match="earlier run"):
            make_learner(stream, [method]).fit(stream)
    distill = methods.Distill()
    fitted_weights(stream, [distill])
    assert same(fitted_weights(stream, [distill]), fitted_weights(stream, [methods.Distill()]))


# ---------------------------------------------------------------- memories


def memory_of(learner):
    return learner.methods[0].buffer.all()


REMEMBER = {
    "class-balanced": lambda memory, **o: methods.Replay(memory, **o),
    "reservoir": lambda memory, **o: methods.Replay(memory, "reservoir", **o),
    "DER++": lambda memory, **o: methods.DERpp(memory, **o),
    "GDumb": lambda memory, **o: methods.GDumb(memory, **o),
}


@pytest.mark.parametrize("name", REMEMBER)
@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_memories_hold_training_images_of_seen_tasks_each_once(name, scenario):
    """Every image of the stream is unique, so its hash says where it comes from."""
    stream = unique_stream(scenario)
    train = [set(fingerprints(task.train.x)) for task in stream]
    elsewhere = {h for task in stream for part in (task.test, task.validation) for h in fingerprints(part.x)}
    labels = {h: y for t in stream for h, y in zip(fingerprints(t.train.x), t.train.y.tolist(), strict=True)}

    class Inspect(methods.Method):
        def after_step(self, learner, batch):
            held = memory_of(learner)
            if not held:  # before the first samples came
                return
            hashes = fingerprints(held["x"])
            assert len(hashes) == len(set(hashes)) <= 10
            assert set(hashes) <= set().union(*train[: learner.task.index + 1])
            assert not set(hashes) & elsewhere
            assert [labels[h] for h in hashes] == held["y"].tolist()

        def after_task(self, learner, task, data):
            assert len(learner.methods[0].buffer) == 10

    learner = make_learner(stream, [REMEMBER[name](10), Inspect()], epochs=3)  # 3 epochs: every image is met 3 times
    learner.fit(stream)
    hashes = fingerprints(memory_of(learner)["x"])
    assert len(set(hashes)) == 10
    if name in ("class-balanced", "GDumb"):
        tasks_and_labels = zip(memory_of(learner)["task"].tolist(), memory_of(learner)["y"].tolist(), strict=True)
        assert sorted(Counter(tasks_and_labels).values()) == [1, 1, 2, 2, 2, 2]  # six classes, ten slots


@pytest.mark.parametrize("name", REMEMBER)
def test_the_memory_follows_the_learners_seed_unless_it_has_its_own(name):
    stream = unique_stream()

    def held(learner_seed, **options):
        learner = make_learner(stream, [REMEMBER[name](10, **options)], seed=learner_seed)
        learner.fit(stream)
        return sorted(fingerprints(memory_of(learner)["x"]))

    assert held(0) == held(0) != held(1)
    if name != "DER++":  # where the samples come in the order of the batches, which follow the learner's seed anyway
        assert held(0, seed=5) == held(1, seed=5) != held(0)


def test_regression_balances_over_tasks():
    stream = regression_stream()
    learner = make_learner(stream, [methods.Replay(12)])
    learner.fit(stream)
    assert Counter(memory_of(learner)["task"].tolist()) == {0: 4, 1: 4, 2: 4}


def test_an_unknown_policy_is_met_with_the_choices():
    with pytest.raises(ValueError, match="class_balanced, reservoir"):
        methods.Replay(policy="ring")
    with pytest.raises(ValueError, match="memory=0"):
        methods.GDumb(0)


# ---------------------------------------------------------------- joint


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_joint_on_one_task_is_fine_tuning_bit_for_bit(model):
    stream = digit_stream().first(1)
    assert same(fitted_weights(stream, [methods.Joint()], model=model), fitted_weights(stream, model=model))


def test_joint_trains_afresh_on_the_union_of_all_tasks_so_far():
    stream = unique_stream()
    recorder = Recorder()
    learner = make_learner(stream, [methods.Joint(), recorder], epochs=1, batch_size=24)
    bare = copy.deepcopy(learner.model)
    learner.fit(stream)
    for index, batches in enumerate(recorder.batches):
        met = sum((fingerprints(batch["x"]) for batch in batches), [])
        assert sorted(met) == sorted(sum((fingerprints(t.train.x) for t in stream.tasks[: index + 1]), []))
    bare.grow(6, seeding.generator(0, 2, 3))
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    for batch in recorder.batches[-1]:
        optimizer.zero_grad()
        F.cross_entropy(bare(batch["x"] / 255), batch["y"]).backward()
        optimizer.step()
    assert same(weights(learner.model), weights(bare))


@pytest.mark.parametrize("make", [lambda: methods.Joint(), lambda: methods.GDumb(20)], ids=["joint", "GDumb"])
def test_methods_that_start_afresh_do_not_depend_on_earlier_training(make):
    stream = digit_stream()
    assert same(fitted_weights(stream, [Scramble(), make()]), fitted_weights(stream, [make()]))
    assert not same(fitted_weights(stream, [Scramble()]), fitted_weights(stream))


# ---------------------------------------------------------------- replay


def test_replay_is_cross_entropy_on_current_and_stored_samples_together():
    stream = unique_stream()
    recorder = Recorder()
    learner = make_learner(stream, [methods.Replay(10, batch_size=6), recorder], model="small_cnn")
    bare = copy.deepcopy(learner.model)
    learner.fit(stream)
    hashes = [set(fingerprints(task.train.x)) for task in stream]
    for task, batches in zip(stream, recorder.batches, strict=True):
        bare.grow(task.outputs, seeding.generator(0, task.index, 3))
        optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
        bare.train()
        for batch in batches:
            assert len(batch["y"]) == (8 if task.index == 0 else 8 + 6)
            assert batch["replayed"].tolist() == [False] * 8 + [True] * (len(batch["y"]) - 8)
            assert set(fingerprints(batch["x"][:8])) <= hashes[task.index]
            stored = fingerprints(batch["x"][8:])
            assert len(set(stored)) == len(stored) and set(stored) <= set().union(*hashes[: task.index], set())
            optimizer.zero_grad()
            F.cross_entropy(bare(batch["x"] / 255), batch["y"]).backward()
            optimizer.step()
    assert same(weights(learner.model), weights(bare))


# ---------------------------------------------------------------- distillation


def test_the_teacher_is_copied_before_growth_and_never_changes():
    stream = digit_stream()
    seen = []

    class Watch(methods.Method):
        def before_task(self, learner, task):
            self.frozen = weights(learner.model)  # what the teacher has to be

        def after_step(self, learner, batch):
            teacher = learner.methods[0].teacher
            if learner.task.index == 0:
                assert teacher is None
                return
            assert teacher.num_outputs == learner.stream[learner.task.index - 1].outputs < learner.model.num_outputs
            assert same(weights(teacher), self.frozen)  # running statistics included
            assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
            own = {p.data_ptr() for p in teacher.parameters()}
            assert not own & {p.data_ptr() for p in learner.model.parameters()}
            seen.append(learner.task.index)

    make_learner(stream, [methods.Distill(), Watch()], model="small_cnn").fit(stream)
    assert seen == [1] * 8 + [2] * 8


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("with_replay", [False, True])
def test_distillation_is_the_loop_anyone_would_write(kind, with_replay):
    """Reference: alpha * T^2 KL + (1 - alpha) * loss from batches of the run, KL summed by hand over log-softmaxes."""
    stream, alpha, t = STREAMS[kind](), 0.3, 2.0
    recorder = Recorder()
    wanted = [methods.Replay(10)] if with_replay else []
    learner = make_learner(stream, [*wanted, methods.Distill(alpha, t), recorder])
    bare = copy.deepcopy(learner.model)
    history = learner.fit(stream)
    found, width = [], 0
    for task, batches in zip(stream, recorder.batches, strict=True):
        teacher, old_width = copy.deepcopy(bare), width
        if bare.num_outputs < task.outputs:
            bare.grow(task.outputs, seeding.generator(0, task.index, 3))
        width = task.outputs
        groups = {
            "class": [slice(0, old_width)],
            "task": [slice(*stream[i].columns) for i in range(task.index)],
        }.get(kind, [slice(None)])
        optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
        for batch in batches:
            x = batch["x"].float() / (1 if kind == "regression" else 255)
            out = bare(x)
            if kind == "regression":
                loss = ((out[:, 0] - batch["y"].float()) ** 2).mean()
            elif kind == "task":
                own = [out[i, slice(*stream[int(k)].columns)] for i, k in enumerate(batch["task"])]
                starts = [stream[int(k)].columns[0] for k in batch["task"]]
                y = batch["y"] - torch.tensor(starts)
                loss = torch.stack([F.cross_entropy(o[None], c[None]) for o, c in zip(own, y, strict=True)]).mean()
            else:
                loss = F.cross_entropy(out, batch["y"])
            if task.index > 0:
                with torch.no_grad():
                    old = teacher(x)
                if kind == "regression":
                    distilled = ((out - old) ** 2).mean()
                else:
                    terms = []
                    for g in groups:
                        log_p, log_q = (old[:, g] / t).log_softmax(1), (out[:, g] / t).log_softmax(1)
                        terms.append(t**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean())
                    distilled = sum(terms) / len(terms)
                loss = alpha * distilled + (1 - alpha) * loss
            found.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    # The two sums are rounded differently, and Adam's division by small moments lets that grow a little.
    assert np.allclose(sum(history.losses, []), found, rtol=1e-3, atol=1e-4)
    assert len(found) == 24


def test_distillation_takes_a_students_own_function():
    stream = digit_stream()
    calls = []

    def mine(student, teacher, temperature):
        calls.append((tuple(student.shape), tuple(teacher.shape), temperature))
        return (student - teacher).pow(2).mean()

    changed = fitted_weights(stream, [methods.Distill(0.5, 3.0, distillation=mine)])
    assert set(calls) == {((8, 4), (8, 4), 3.0), ((8, 7), (8, 7), 3.0)}
    assert not same(changed, fitted_weights(stream, [methods.Distill(0.5, 3.0)]))


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0}])
def test_impossible_distillation_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        methods.Distill(**wrong)


# ---------------------------------------------------------------- DER++


def test_derpp_loss_is_the_papers_sum_of_three_terms():
    stream, alpha, beta = unique_stream(), 0.7, 0.4
    derpp = methods.DERpp(12, alpha=alpha, beta=beta, batch_size=5)
    drawn, checked = [], []
    sample = derpp.buffer.sample

    def spy(count):
        drawn.append(sample(count))
        return drawn[-1]

    derpp.buffer.sample = spy

    class Check(methods.Method):
        def loss(self, learner, batch, out, loss):
            expected = F.cross_entropy(out, batch["y"])
            if learner.task.index > 0:
                logits, labelled = drawn[-2:]
                assert len(logits["y"]) == len(labelled["y"]) == 5
                now, total, entries = learner.model(logits["x"] / 255), 0.0, 0
                for row, past, width in zip(now, logits["logits"], logits["width"].tolist(), strict=True):
                    total = total + ((row[:width] - past[:width]) ** 2).sum()  # only columns that existed then
                    entries += width
                expected = expected + alpha * total / entries
                expected = expected + beta * F.cross_entropy(learner.model(labelled["x"] / 255), labelled["y"])
                checked.append(set(logits["width"].tolist()))
            assert torch.allclose(loss, expected, atol=1e-6)
            return loss

    make_learner(stream, [derpp, Check()]).fit(stream)
    assert len(checked) == 16 and {2, 4} in checked  # logits of two widths in one batch


@pytest.mark.parametrize("epochs", [1, 3])
def test_derpp_stores_the_logits_of_the_first_sight_from_before_the_step(epochs):
    stream = unique_stream()
    first_sight = {}

    class Watch(methods.Method):
        def loss(self, learner, batch, out, loss):
            for h, row in zip(fingerprints(batch["x"]), out.detach(), strict=True):
                first_sight.setdefault(h, row)
            return loss

    derpp = methods.DERpp(30)
    make_learner(stream, [derpp, Watch()], epochs=epochs).fit(stream)
    held = derpp.buffer.all()
    assert set(held["width"].tolist()) == {2, 4, 6}
    for h, logits, width, task in zip(
        fingerprints(held["x"]), held["logits"], held["width"].tolist(), held["task"].tolist(), strict=True
    ):
        assert width == stream[task].outputs == len(first_sight[h])
        assert torch.equal(logits[:width], first_sight[h]) and not logits[width:].any()


def test_derpp_refreshed_stores_the_logits_of_the_end_of_the_task():
    stream = unique_stream().first(2)
    recorder = Recorder()
    derpp = methods.DERpp(30, refresh=True)
    learner = make_learner(stream, [derpp, recorder], model="small_cnn", epochs=2)
    learner.fit(stream)
    ends = [recorder.before[1].eval(), learner.model.eval()]
    held = derpp.buffer.all()
    assert set(held["task"].tolist()) == {0, 1}
    for x, logits, task in zip(held["x"], held["logits"], held["task"].tolist(), strict=True):
        width = stream[task].outputs
        assert torch.allclose(logits[:width], ends[task](x[None] / 255)[0, :width], atol=1e-5)


def test_derpp_reservoir_is_a_uniform_sample_of_the_stream():
    """Samples of three epochs are met three times but offered once: no task is favoured."""
    stream, included = unique_stream(), Counter()
    for seed in range(40):
        derpp = methods.DERpp(12, alpha=0, beta=0)
        make_learner(stream, [derpp], seed=seed, epochs=2, batch_size=24).fit(stream)
        assert derpp.buffer.seen == 72
        included.update(derpp.buffer.all()["task"].tolist())
    # 480 draws from three tasks of 24: 160 each, with a standard deviation below 10.
    assert all(abs(count - 160) < 40 for count in included.values()) and len(included) == 3


# ---------------------------------------------------------------- GDumb


def test_gdumb_trains_a_fresh_model_on_its_memory_alone():
    stream = unique_stream()
    recorder = Recorder()
    learner = make_learner(stream, [methods.GDumb(10), recorder])
    bare = copy.deepcopy(learner.model)
    learner.fit(stream)
    held = set(fingerprints(memory_of(learner)["x"]))
    bare.grow(6, seeding.generator(0, 2, 3))
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    for batch in recorder.batches[-1]:
        assert set(fingerprints(batch["x"])) <= held
        optimizer.zero_grad()
        F.cross_entropy(bare(batch["x"] / 255), batch["y"]).backward()
        optimizer.step()
    assert same(weights(learner.model), weights(bare))


# ---------------------------------------------------------------- calibration


def test_aligned_weights_by_hand():
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 2.0]])  # norms 5, 1 | 10, 2
    aligned = methods.align_weights(weight, 2)
    assert torch.allclose(aligned, torch.tensor([[3.0, 4.0], [0.0, 1.0], [3.0, 4.0], [0.0, 1.0]]))
    assert weight[2, 0] == 6.0  # the argument is left alone


def test_weight_alignment_equalises_norms_in_class_incremental_streams_only():
    stream = digit_stream()
    learner = make_learner(stream, [methods.WeightAlign()], steps=20)
    learner.fit(stream)
    norms = learner.model.head.weight.detach().norm(dim=1)
    assert norms[7:].mean().item() == pytest.approx(norms[:7].mean().item(), rel=1e-5)
    for kind in ("task", "domain"):
        assert same(fitted_weights(STREAMS[kind](), [methods.WeightAlign()]), fitted_weights(STREAMS[kind]()))


def test_balanced_fine_tuning_of_the_head_leaves_the_features_and_the_statistics_alone():
    stream = digit_stream()
    changed = {}

    class Before(methods.Method):
        def after_task(self, learner, task, data):
            self.kept = weights(learner.model)

    class After(methods.Method):
        def after_task(self, learner, task, data):
            now = weights(learner.model)
            changed[task.index] = {name for name in now if not torch.equal(now[name], before.kept[name])}

    before = Before()
    for part, inside in (("head", {"head.weight", "head.bias"}), ("all", {"dense.0.weight", "head.weight"})):
        replay = methods.Replay(20)
        tune = methods.BalancedFinetune(replay, steps=3, part=part)
        make_learner(stream, [replay, before, tune, After()], model="small_cnn").fit(stream)
        assert changed[0] == set() and inside <= changed[1]
        assert not any("running" in name for name in changed[1])
        assert part == "all" or changed[1] == inside
    with pytest.raises(ValueError, match="'head' or 'all'"):
        methods.BalancedFinetune(methods.Replay(), part="body")


def test_balanced_fine_tuning_without_a_memory_does_nothing():
    replay = methods.Replay(0)
    stream = digit_stream()
    assert same(fitted_weights(stream, [replay, methods.BalancedFinetune(replay)]), fitted_weights(stream))


# ---------------------------------------------------------------- what all this is for


@pytest.mark.parametrize("seed", range(3))
def test_joint_beats_replay_beats_fine_tuning_on_digits(seed):
    stream = digit_stream("class", 5, None)
    wanted = {"floor": [], "replay": [methods.Replay(50)], "ceiling": [methods.Joint()]}
    history = {}
    for name, list_of_methods in wanted.items():
        model = models.build("mlp", stream, seed=seed, hidden=(64,))
        learner = Learner(model, list_of_methods, lr=2e-3, batch_size=16, epochs=4, seed=seed, show_progress=False)
        history[name] = learner.fit(stream)
    last = {name: h.overall[-1] for name, h in history.items()}
    assert last["ceiling"] > last["replay"] + 0.03 and last["replay"] > last["floor"] + 0.3
    assert last["floor"] < 0.3 and last["ceiling"] > 0.85
    forgotten = {name: metrics.forgetting(h.accuracy) for name, h in history.items()}
    assert forgotten["floor"] > forgotten["replay"] + 0.3 > forgotten["ceiling"] + 0.3
