"""The same training run three times: by hand, by our Learner, by Avalanche.

Run as a program this file is a worker: it answers each line `contender task model` on its standard input with the
seconds of one run, in processor time, so that other programs on the machine count little. So every contender
can live in an environment of its own, and the runs can be interleaved.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from course_utils import models

TASKS, BATCH, LR = 3, 64, 1e-3
MEMORY = 3 * BATCH  # Avalanche goes through its memory in batches; a remainder would give it smaller ones
STEPS = {"mlp": 150, "small_cnn": 12}  # per task
MODELS = {"mlp": {"hidden": (400, 400)}, "small_cnn": {}}
OUTPUTS = 2 * TASKS


class Images:
    """Random images of Fashion-MNIST's size, two classes a task: one epoch is the wanted number of steps."""

    name, title, standin = "random", "random images (speed does not depend on them)", True
    image_shape = (1, 28, 28)
    num_classes = OUTPUTS
    classes = tuple(f"class {c}" for c in range(OUTPUTS))

    def __init__(self, steps: int):
        rng = np.random.default_rng(0)

        def split(count):
            y = np.repeat(np.arange(OUTPUTS), count)
            x = rng.integers(0, 256, (len(y), *self.image_shape), dtype=np.uint8)
            return SimpleNamespace(x=x, y=y, group=np.arange(len(y)))

        self.train, self.validation, self.test = split(steps * BATCH // 2), split(1), split(1)


def network(model: str):
    """All outputs from the start, so that no contender grows anything."""
    return models.build(model, Images, num_outputs=OUTPUTS, **MODELS[model])


def bare(task: str, model: str) -> float:
    """The honest minimum: permuted batches, floats, forward, loss, backward, Adam; a memory that is concatenated."""
    data, net = Images(STEPS[model]), network(model)
    x, y = torch.as_tensor(data.train.x), torch.as_tensor(data.train.y)
    memory_x, memory_y, seconds = x[:0], y[:0], 0.0
    net.train()
    for index in range(TASKS):
        rows = torch.nonzero(y // 2 == index).flatten()
        task_x, task_y, seen = x[rows], y[rows], 2 * index + 2
        started = time.process_time()
        optimizer = torch.optim.Adam(net.parameters(), lr=LR)
        order = torch.randperm(len(task_x))
        for step in range(STEPS[model]):
            batch = order[step * BATCH : (step + 1) * BATCH]
            batch_x, batch_y = task_x[batch], task_y[batch]
            if task == "replay" and len(memory_x):
                chosen = torch.randperm(len(memory_x))[:BATCH]
                batch_x, batch_y = torch.cat([batch_x, memory_x[chosen]]), torch.cat([batch_y, memory_y[chosen]])
            loss = F.cross_entropy(net(batch_x.float() / 255)[:, :seen], batch_y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if task == "replay":
            past_x, past_y = torch.cat([memory_x, task_x]), torch.cat([memory_y, task_y])
            share = MEMORY // seen
            kept = torch.cat([torch.nonzero(past_y == c).flatten()[:share] for c in range(seen)])
            memory_x, memory_y = past_x[kept], past_y[kept]
        seconds += (time.process_time() - started) * (index > 0)
    return seconds


def ours(task: str, model: str) -> float:
    from course_utils import learner as module
    from course_utils import methods, streams

    module.time = SimpleNamespace(perf_counter=time.process_time)  # the history's seconds, on the clock of all
    stream = streams.class_incremental(Images(STEPS[model]), num_tasks=TASKS)
    wanted = [methods.Replay(MEMORY)] if task == "replay" else []
    learner = module.Learner(network(model), wanted, lr=LR, batch_size=BATCH, epochs=1, show_progress=False)
    history = learner.fit(stream)
    assert history.steps.tolist() == [STEPS[model]] * TASKS
    return float(history.seconds[1:].sum())


def avalanche(task: str, model: str) -> float:
    """Avalanche gets floats, so it is spared the conversion; no logging, no evaluation, no worker processes."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive, Replay

    data, net = Images(STEPS[model]), network(model)
    x, y = torch.as_tensor(data.train.x).float() / 255, torch.as_tensor(data.train.y)
    parts = []
    for index in range(TASKS):
        rows = torch.nonzero(y // 2 == index).flatten()
        part = torch.utils.data.TensorDataset(x[rows], y[rows])
        part.targets = y[rows].tolist()
        parts.append(as_classification_dataset(part))
    settings = {
        "model": net, "optimizer": torch.optim.Adam(net.parameters(), lr=LR), "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": BATCH, "train_epochs": 1, "evaluator": EvaluationPlugin(loggers=[]),
    }  # fmt: skip
    strategy = Naive(**settings) if task == "fine-tuning" else Replay(**settings, mem_size=MEMORY)
    seconds = 0.0
    for index, experience in enumerate(benchmark_from_datasets(train=parts).streams["train"]):
        started = time.process_time()
        strategy.train(experience, num_workers=0)
        seconds += (time.process_time() - started) * (index > 0)
    return seconds


def main() -> None:
    torch.set_num_threads(1)
    contenders = {"bare": bare, "ours": ours, "avalanche": avalanche}
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        contender, task, model = line.split()
        torch.manual_seed(0)
        answer = {"seconds": contenders[contender](task, model), "torch": torch.__version__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
