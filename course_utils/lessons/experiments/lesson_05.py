"""Lesson 05: images with sentences in a stream, classes that are only described, and what a memory of words is worth.

Digits and drawn signs in the smoke and quick presets; in full Fashion-MNIST and GTSRB.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from course_utils import Learner, augment, datasets, methods, metrics, models, seeding, streams
from course_utils import multimodal as words
from course_utils.lessons.experiment import ONE_SEED, Experiment, describe, modules
from course_utils.lessons.experiments.told import Told
from course_utils.multimodal import descriptions, invented, signs, zero_shot
from course_utils.multimodal.training import choose

NUM_TASKS = 5


@cache
def load(name: str) -> Any:
    """The data set, once per process. Never a stand-in in the place of a real one."""
    return datasets.load(name, allow_standin=False)


def tokenizer_of(texts: Mapping[str, Any]) -> words.Tokenizer:
    """A vocabulary of everything that some classes' descriptions say."""
    return words.Tokenizer.build(sentence for sentences in texts.values() for sentence in sentences)


# ---- five tasks -------------------------------------------------------------------------------------------------------


def make(config: Mapping[str, Any], seed: int) -> tuple[streams.TaskStream, Learner]:
    """The stream with captions, and the learner of a configuration; on a GPU if there is one."""
    data, texts = load(config["data"]), texts_of(config)
    tokenizer = tokenizer_of(texts)
    plain = streams.class_incremental(data, NUM_TASKS, limit=config["limit"])
    stream = words.with_text(plain, texts, tokenizer, seed)
    used: list[methods.Method] = []
    if config["content"] is not None:
        used.append(words.TextReplay(config["budget"], config["content"]))
    if config["joint"]:
        used.append(methods.Joint())
    model = network(config["network"], stream, texts, tokenizer, seed)
    if config["network"] == "CLIP":
        used.append(words.Contrastive(config["weight"], config["label_aware"]))
    elif config["network"] == "fusion":
        used.append(words.TextPaths(without=0.5))
    learner = Learner(
        model, used, lr=config["lr"], batch_size=64, epochs=config["epochs"], seed=seed, show_progress=False,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    return stream, learner


def texts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Class name -> sentences. With "swapped", those of the class three places further on: the same words, the wrong meaning."""
    texts = dict(descriptions.of(config["data"]))
    names = list(texts)
    if config.get("swapped"):
        return {name: texts[names[(place + 3) % len(names)]] for place, name in enumerate(names)}
    return texts


def network(name: str, stream: streams.TaskStream, texts: Mapping[str, Any], tokenizer: Any, seed: int) -> Any:
    """The small CNN with a head of rows ("vision"), with a text tower ("CLIP"), or with patches that read ("fusion")."""
    if name == "vision":
        return models.build("small_cnn", stream, seed=seed)
    build: Any = {"CLIP": words.build_clip, "fusion": words.build_fusion}[name]
    return build(stream, texts, tokenizer, seed=seed)


def run_stream(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Learn the whole stream; scores on test images in per cent, all classes competing and with the task told.

    What a process has run once it knows: three experiments share some conditions.
    """
    return dict(_learned(json.dumps(config, sort_keys=True), seed))


@cache
def _learned(settings: str, seed: int) -> dict[str, Any]:
    config = json.loads(settings)
    stream, learner = make(config, seed)
    watch = Told()
    learner.methods.append(watch)
    history = learner.fit(stream)
    record = {
        "data": describe(load(config["data"])),
        "accuracy": history.accuracy,
        "acc": 100 * metrics.average_accuracy(history.accuracy),
        "forgetting": 100 * metrics.forgetting(history.accuracy),
        "learned": 100 * float(np.diag(history.accuracy).mean()),  # each task just after it was learned
        "told": 100 * metrics.average_accuracy(watch.accuracy),
        "told_forgetting": 100 * metrics.forgetting(watch.accuracy),
        "stored": next((m.memory for m in learner.methods if isinstance(m, words.TextReplay)), 0),
        "device": device_name(),
    }
    if isinstance(learner.model, words.Fusion):
        learner.model.use_text = False
        found = [learner.score(task.test, task) for task in stream]
        record["acc_without_text"] = 100 * float(np.mean(found))
    return record


def device_name() -> str:
    """What this process trains on, with PyTorch's version."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


# ---- one task, looked at -------------------------------------------------------------------------------------------------


def similarities(
    data: str, label_aware: bool, steps: int, count: int = 12, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The first task's pair after a short training on captions alone: cosines of some images with their captions.

    Returns:
        `(count, count)` cosines, image i and caption i belonging together, sorted by class; and the labels `(count,)`.
    """
    texts = descriptions.of(data)
    tokenizer = tokenizer_of(texts)
    plain = streams.class_incremental(load(data), NUM_TASKS).first(1)
    stream = words.with_text(plain, texts, tokenizer, seed)
    model = words.build_clip(stream, texts, tokenizer, seed=seed)
    learner = Learner(
        model, [words.Contrastive(1.0, label_aware)], lr=2e-3, batch_size=64, steps_per_task=steps, seed=seed,
        show_progress=False,
    )  # fmt: skip
    learner.fit(stream)
    train = stream[0].train
    rows = torch.cat([(train.y == label).nonzero().flatten()[: count // 2] for label in train.y.unique()])
    image = zero_shot.image_embeddings(model, train.x[rows])
    with zero_shot.evaluating(model):
        text = model.encode_text(train.fields["text"][rows])
    return words.similarity(image, text).numpy(), train.y[rows].numpy()


def train_fusion(preset: str, seed: int = 0) -> words.Fusion:
    """A fusion network that has learned all classes at once, to look at: in full from 200 images of each."""
    config = PRESETS[preset] | ({"limit": 200, "epochs": 6} if preset == "full" else {})
    texts = descriptions.of(config["data"])
    tokenizer = tokenizer_of(texts)
    stream = streams.class_incremental(load(config["data"]), 1, limit=config["limit"])
    model = words.build_fusion(stream, texts, tokenizer, seed=seed)
    learner = Learner(
        model, [words.TextPaths(without=0.3)], lr=2e-3, batch_size=64, epochs=config["epochs"], seed=seed,
        show_progress=False,
    )  # fmt: skip
    learner.fit(stream)
    return model.eval()


def train_leaking(
    config: Mapping[str, Any], seed: int
) -> tuple[words.Fusion, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A fusion network that learned with captions; test images in [0, 1], captions drawn from their labels, the labels."""
    texts = descriptions.of(config["data"])
    tokenizer = tokenizer_of(texts)
    plain = streams.class_incremental(load(config["data"]), 1, limit=config["limit"])
    stream = words.with_text(plain, texts, tokenizer, seed)
    model = words.build_fusion(stream, texts, tokenizer, seed=seed)
    learner = Learner(
        model, [words.TextPaths(without=0.3, captions=0.4)], lr=config["lr"], batch_size=64, epochs=config["epochs"],
        seed=seed, show_progress=False,
    )  # fmt: skip
    learner.fit(stream)
    test = stream[0].test
    prompts = words.prompt_tokens(stream.class_names, texts, tokenizer)
    drawn = torch.rand(len(test), generator=seeding.generator(seed, 0, 15))
    captions = choose(prompts, test.y, drawn)  # from the labels of the *test* images: what is not allowed
    return model.eval(), test.x.float() / 255, captions, test.y


def run_leak(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """A fusion network that learned with captions drawn from the labels, asked in three ways, and about blank images."""
    model, images, captions, y = train_leaking(config, seed)
    ways = {
        "image alone": None,
        "all classes' text": None,
        "own caption": captions,
        "blank image, own caption": captions,
    }
    found = {}
    with zero_shot.evaluating(model):
        for name, text in ways.items():
            x = torch.zeros_like(images) if name.startswith("blank") else images
            out = model.head(model.answer_from(model.patches(x), text, name != "image alone")[0])
            found[name] = 100 * float((out.argmax(dim=1) == y).double().mean())
    return {"data": describe(load(config["data"])), **found}


# ---- what the networks cost --------------------------------------------------------------------------------------------


def run_cost(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Size of the three networks, and their times on the CPU, taken in turns in one process; relative to the vision one.

    A training step is one of the second task, with replay; an answer is for a batch of 256 test images.
    """
    learners: dict[str, Learner] = {}
    for name in ("vision", "CLIP", "fusion"):
        stream, learner = make({**config, "network": name}, seed)
        learner.device = torch.device("cpu")
        learners[name] = learner
    return {
        "data": describe(load(config["data"])),
        **time_networks(learners, stream.first(2), config["steps"], config["rounds"]),
    }


def time_networks(
    learners: Mapping[str, Learner], stream: streams.TaskStream, steps: int, rounds: int
) -> dict[str, Any]:
    """Per network: parameters, megabytes, and medians over rounds of the times of training and of answering."""
    training: dict[str, list[float]] = {name: [] for name in learners}
    answering: dict[str, list[float]] = {name: [] for name in learners}
    for learner in learners.values():
        learner.epochs, learner.steps_per_task = None, steps
        learner.model.to(learner.device)
    images = stream[0].test.x[:256].float() / 255
    for number in range(rounds + 1):
        for name, learner in learners.items():
            fresh = copy.deepcopy(learner)
            seconds = fresh.fit(stream).seconds[1]
            with torch.no_grad():
                fresh.model.eval()(images)  # sentences are read once, then kept
                start = time.perf_counter()
                fresh.model(images)
                answer = time.perf_counter() - start
            if number:  # the first round warms up
                training[name].append(seconds)
                answering[name].append(answer)
            if number == rounds:
                learners[name].model = fresh.model
    first = next(iter(learners))
    states = {name: learner.model.state_dict() for name, learner in learners.items()}
    return {
        "parameters": {name: sum(p.numel() for p in learner.model.parameters()) for name, learner in learners.items()},
        "megabytes": {
            name: sum(v.numel() * v.element_size() for v in state.values()) / 1e6 for name, state in states.items()
        },
        "training": {n: float(np.median(np.array(training[n]) / np.array(training[first]))) for n in learners},
        "answering": {n: float(np.median(np.array(answering[n]) / np.array(answering[first]))) for n in learners},
        "images_per_second": {n: len(images) / float(np.median(answering[n])) for n in learners},
        "milliseconds_per_step": {n: 1000 * float(np.median(training[n])) / steps for n in learners},
    }


def run_speed(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """A step of training the pair, from stored bytes to the optimizer: rows of one table, the first one is "before".

    Where the device is not there, there are no rows.
    """
    if config["device"] == "cuda" and not torch.cuda.is_available():
        return {"data": describe(load(config["data"])), "rows": [], "device": "no GPU"}
    stream, learner = make({**config, "network": "CLIP"}, seed)
    train = stream[0].train
    model = learner.model.to(config["device"])
    model.grow(stream[0].outputs, seeding.generator(seed, 0, 3))
    settings = [
        {"path": path, "precision": precision, "batch_size": batch}
        for batch in config["batches"]
        for path, precision in (
            ("one by one", "fp32"),
            ("at once", "fp32"),
            *(("at once", p) for p in config["halves"]),
        )
    ]
    rows = words.speed.compare(
        model, train.x, train.y, train.fields["text"], settings, steps=config["steps"], seed=seed
    )
    return {"data": describe(load(config["data"])), "rows": rows, "device": rows[0]["device"]}


# ---- classes that are only described -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A network that has read about all signs but some, and what is needed to ask it.

    Attributes:
        model, tokenizer: the pair.
        texts: class name -> sentences, the held-out classes' too.
        data: the signs' images.
        held_out: labels that were never shown.
    """

    model: words.CLIP
    tokenizer: words.Tokenizer
    texts: dict[str, Any]
    data: Any
    held_out: list[int]


def train_on_signs(config: Mapping[str, Any], seed: int) -> Trained:
    """`train_pair` with the course's sentences. The last two are kept: a notebook asks for the one that its experiment has
    just trained."""
    return _train_on_signs(json.dumps(config, sort_keys=True), seed)


@lru_cache(maxsize=2)
def _train_on_signs(settings: str, seed: int) -> Trained:
    return train_pair(json.loads(settings), seed)


def train_pair(config: Mapping[str, Any], seed: int, describe: Callable[[signs.Sign], Any] = signs.describe) -> Trained:
    """Train the pair on the signs that are not held out, and on invented ones.

    Args:
        config: see `SIGNS`; `invented` is the number of invented signs.
        seed: of the signs that are held out, too.
        describe: a sign -> its sentences.
    """
    data = load(config["data"])
    held_out = signs.held_out_classes(config["held_out"], seed)
    texts = {name: describe(signs.SIGNS[label]) for label, name in enumerate(data.classes)}
    both = data
    if config["invented"]:
        drawn = invented.invent(config["invented"], seed)
        texts |= {invented.name_of(sign): describe(sign) for sign in drawn}
        both = invented.beside(data, drawn)
    shown = [label for label in range(both.num_classes) if label not in held_out]
    tokenizer = tokenizer_of({both.classes[label]: texts[both.classes[label]] for label in shown})
    plain = streams.class_incremental(both, class_splits=[shown], limit=config["limit"])
    stream = words.with_text(plain, texts, tokenizer, seed)
    model = words.build_clip(stream, texts, tokenizer, seed=seed)
    learner = Learner(
        model, [words.Contrastive(config["weight"], config["label_aware"])], lr=2e-3, batch_size=config.get("batch_size", 128), seed=seed,
        steps_per_task=config["steps"], optimizer="adamw", weight_decay=0.01, schedule="cosine",
        augment=augment.Affine(), show_progress=False,
    )  # fmt: skip
    learner.fit(stream)
    model.eval()
    return Trained(model, tokenizer, texts, data, held_out)


def asked(preset: str) -> Trained:
    """The pair that a notebook asks in words, always on the drawn signs: what its own experiment has just trained in quick."""
    return train_on_signs(asked_settings(preset), 0)


def asked_settings(preset: str) -> dict[str, Any]:
    """Of `asked`, and of the lesson's design task: the drawn signs beside invented ones."""
    return _signs("smoke" if preset == "smoke" else "quick")["real and invented signs"]


def per_class(answers: torch.Tensor, y: torch.Tensor) -> float:
    """Accuracy in per cent, every class counting the same."""
    found = [float((answers[y == label] == label).double().mean()) for label in y.unique()]
    return 100 * float(np.mean(found))


def run_signs(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Zero-shot answers for signs never seen, by one sentence and by all; accuracies in per cent, every class alike."""
    trained = train_on_signs(config, seed)
    data, held_out = trained.data, torch.tensor(trained.held_out)
    image = zero_shot.image_embeddings(trained.model, torch.from_numpy(data.test.x))
    y = torch.from_numpy(data.test.y)
    hidden = torch.isin(y, held_out)
    record: dict[str, Any] = {"data": describe(data), "held_out": trained.held_out}
    for name, count in (("one sentence", 1), ("all sentences", None)):
        texts = {label: sentences[:count] for label, sentences in trained.texts.items()}
        classes = zero_shot.class_embeddings(trained.model, trained.tokenizer, texts, data.classes)
        among = held_out[zero_shot.classify(image[hidden], classes[held_out])]
        record[name] = {
            "held out, among themselves": per_class(among, y[hidden]),
            "held out, among all": per_class(zero_shot.classify(image[hidden], classes), y[hidden]),
            "seen, among all": per_class(zero_shot.classify(image[~hidden], classes), y[~hidden]),
        }
    pairs = torch.arange(data.num_classes)[None] == y[:, None]
    record["recall"] = dict(
        zip(("image to text", "text to image"), zero_shot.recall_at(image, classes, pairs, 5), strict=True)
    )
    record["by class"] = {
        data.classes[label]: 100 * float((among[y[hidden] == label] == label).double().mean()) for label in held_out
    }
    record["plate"] = 100 * signs.guess_from(signs.PLATE, trained.held_out)
    record["chance"] = 100 / len(held_out)
    return record


def among_held_out(trained: Trained) -> float:
    """Accuracy on the held-out signs' test images, named among themselves by all their sentences; per cent, classes alike."""
    data, held_out = trained.data, torch.tensor(trained.held_out)
    y = torch.from_numpy(data.test.y)
    hidden = torch.isin(y, held_out)
    image = zero_shot.image_embeddings(trained.model, torch.from_numpy(data.test.x)[hidden])
    classes = zero_shot.class_embeddings(trained.model, trained.tokenizer, trained.texts, data.classes)
    return per_class(held_out[zero_shot.classify(image, classes[held_out])], y[hidden])


def run_closed(config: dict[str, Any], seed: int, using: Mapping[str, Any] | None) -> dict[str, Any]:
    """Two classes of ten held out: is there anything in eight descriptions to generalise from?"""
    data, texts = load(config["data"]), descriptions.of(config["data"])
    order = torch.randperm(data.num_classes, generator=seeding.generator(seed, 0, 14)).tolist()
    held_out, shown = torch.tensor(sorted(order[:2])), sorted(order[2:])
    tokenizer = tokenizer_of({data.classes[label]: texts[data.classes[label]] for label in shown})
    plain = streams.class_incremental(data, class_splits=[shown], limit=config["limit"])
    stream = words.with_text(plain, texts, tokenizer, seed)
    model = words.build_clip(stream, texts, tokenizer, seed=seed)
    learner = Learner(
        model, [words.Contrastive()], lr=config["lr"], batch_size=64, epochs=config["epochs"], seed=seed,
        show_progress=False,
    )  # fmt: skip
    learner.fit(stream)
    image = zero_shot.image_embeddings(model, torch.from_numpy(data.test.x))
    classes = zero_shot.class_embeddings(model, tokenizer, texts, data.classes)
    y = torch.from_numpy(data.test.y)
    hidden = torch.isin(y, held_out)
    return {
        "data": describe(data),
        "held_out": [data.classes[label] for label in held_out],
        "between the two": 100 * zero_shot.accuracy(image, classes, y, held_out.tolist()),
        "among all": per_class(zero_shot.classify(image[hidden], classes), y[hidden]),
        "seen, among all": per_class(zero_shot.classify(image[~hidden], classes), y[~hidden]),
    }


# ---- conditions --------------------------------------------------------------------------------------------------------

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "limit": 20, "epochs": 1, "lr": 2e-3, "budget": 4_000},
    "quick": {"data": "digits", "limit": None, "epochs": 5, "lr": 2e-3, "budget": 5_000},
    "full": {"data": "fashion_mnist", "limit": None, "epochs": 2, "lr": 1e-3, "budget": 404_000},  # 500 images
}
BASE = {"network": "CLIP", "content": "image", "joint": False, "weight": 0.5, "label_aware": True}


def _config(preset: str, **changes: Any) -> dict[str, Any]:
    return {**PRESETS[preset], **BASE, **changes}


def _compared(preset: str) -> dict[str, dict[str, Any]]:
    """What language adds to replay, and what is below and above all of them."""
    return {
        "fine-tuning": _config(preset, network="vision", content=None),
        "vision + replay": _config(preset, network="vision"),
        "CLIP + replay": _config(preset),
        "CLIP + text-augmented replay": _config(preset, content="image+text"),
        "fusion + replay": _config(preset, network="fusion"),
        "joint": _config(preset, network="vision", content=None, joint=True),
    }


def _memories(preset: str) -> dict[str, dict[str, Any]]:
    """The same bytes, filled in different ways, and none."""
    found = {"no memory": _config(preset, content=None)}
    for content in ("image", "image+text", "text", "text+embedding"):
        found[content] = _config(preset, content=content)
    return found


def _meanings(preset: str) -> dict[str, dict[str, Any]]:
    """Rows and sentences as classes, and sentences that describe another class; with replay and without."""
    found = {}
    for suffix, content in ((" + replay", "image"), ("", None)):
        found[f"rows{suffix}"] = _config(preset, network="vision", content=content)
        found[f"sentences{suffix}"] = _config(preset, content=content)
        found[f"swapped sentences{suffix}"] = _config(preset, content=content) | {"swapped": True}
    return found


SIGNS: dict[str, dict[str, Any]] = {
    "smoke": {"data": "signs", "limit": 4, "steps": 3, "held_out": 8},
    "quick": {"data": "signs", "limit": None, "steps": 200, "held_out": 8, "batch_size": 64},
    "full": {"data": "gtsrb", "limit": 300, "steps": 700, "held_out": 8},
}
INVENTED = {"smoke": 25, "quick": 100, "full": 300}


def _signs(preset: str) -> dict[str, dict[str, Any]]:
    """With and without invented signs."""
    same = {**SIGNS[preset], "weight": 0.5, "label_aware": True}
    return {
        "the real signs alone": {**same, "invented": 0},
        "real and invented signs": {**same, "invented": INVENTED[preset]},
    }


def _closed(preset: str) -> dict[str, dict[str, Any]]:
    return {"eight classes shown": PRESETS[preset] | ({"limit": 1000} if preset == "full" else {})}


def _leaks(preset: str) -> dict[str, dict[str, Any]]:
    """Small enough to run anywhere: in full 500 images a class, four epochs."""
    size = {"limit": 500, "epochs": 4} if preset == "full" else {}
    return {"captions in training": {name: PRESETS[preset][name] for name in ("data", "limit", "lr", "epochs")} | size}


SPEEDS: dict[str, dict[str, Any]] = {
    "smoke": {"CPU": {"device": "cpu", "batches": [32], "halves": ["bf16"], "steps": 2}},
    "quick": {"CPU": {"device": "cpu", "batches": [64, 192], "halves": ["bf16"], "steps": 10}},
    "full": {
        "CPU": {"device": "cpu", "batches": [64, 256], "halves": ["bf16", "fp16"], "steps": 20},
        "GPU": {"device": "cuda", "batches": [64, 256, 2048], "halves": ["bf16", "fp16"], "steps": 50},
    },
}


def _speeds(preset: str) -> dict[str, dict[str, Any]]:
    return {name: _config(preset, **settings) for name, settings in SPEEDS[preset].items()}


def _costs(preset: str) -> dict[str, dict[str, Any]]:
    size = (
        {"steps": 2, "rounds": 1}
        if preset == "smoke"
        else {"steps": 5, "rounds": 3}
        if preset == "quick"
        else {"steps": 20, "rounds": 7}
    )
    return {"three networks": _config(preset, **size)}


_LANGUAGE = modules(
    "learner", "streams", "objectives", "models.cnn", "models.head", "models.vit", "methods.joint", "methods.buffers",
    "multimodal.clip", "multimodal.contrastive", "multimodal.descriptions", "multimodal.fusion", "multimodal.replay",
    "multimodal.signs", "multimodal.text", "multimodal.tokenizer", "multimodal.training", "lessons.experiments.told",
)  # fmt: skip

EXPERIMENTS = {
    entry.name: entry
    for entry in (
        Experiment("stream", run_stream, _compared, title="Five tasks, with and without words", code=_LANGUAGE),
        Experiment("memories", run_stream, _memories, title="Memories of equal bytes", code=_LANGUAGE),
        Experiment("meaning", run_stream, _meanings, title="Does it matter what the sentences say?", code=_LANGUAGE),
        Experiment("leak", run_leak, _leaks, title="A text that gives the answer away", code=_LANGUAGE),
        Experiment("cost", run_cost, _costs, seeds=ONE_SEED, title="What the networks cost", code=_LANGUAGE),
        Experiment("speed", run_speed, _speeds, seeds=ONE_SEED, title="The data path", code=(*_LANGUAGE, *modules("multimodal.speed"))),
        Experiment("signs", run_signs, _signs, title="Signs that were only described", code=(*_LANGUAGE, *modules("multimodal.invented", "multimodal.zero_shot"))),
        Experiment("closed", run_closed, _closed, title="Two classes held out", code=(*_LANGUAGE, *modules("multimodal.zero_shot"))),
    )
}  # fmt: skip
