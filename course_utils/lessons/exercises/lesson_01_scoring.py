"""Lesson 01, exercise 01.5: one set of logits, scored as task-, domain- and class-incremental learning ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose

Answer = Callable[..., Any]
SEED = 9  # of the example; chosen so that no two readings of it give the same score


def scenario_accuracy(logits: Tensor, labels: Tensor, classes_per_task: int, scenario: str) -> float:
    """Accuracy of one network's answers, under the question that a scenario asks.

    Task t has the columns `t * classes_per_task` up to, not including, `(t + 1) * classes_per_task`.

    Args:
        logits: `(N, classes)` outputs for all classes.
        labels: `(N,)` the right column, which also says which task a sample is from.
        classes_per_task: columns per task, the same for all.
        scenario: "class": which of all classes is it? "task": the task is given, which of its classes is it?
            "domain": the task is not given; is it the first, second, ... class of whatever task it is from?

    Raises:
        ValueError: another scenario.

    Source: van de Ven, Tuytelaars & Tolias 2022, table 1. Built in lesson 01, exercise 01.5.
    """
    rows = torch.arange(len(labels))
    if scenario == "class":
        right = logits.argmax(dim=1) == labels
    elif scenario == "domain":
        right = logits.argmax(dim=1) % classes_per_task == labels % classes_per_task
    elif scenario == "task":
        own = logits.reshape(len(labels), -1, classes_per_task)[rows, labels // classes_per_task]
        right = own.argmax(dim=1) == labels % classes_per_task
    else:
        raise ValueError(f"scenario={scenario!r}; choose 'class', 'task' or 'domain'")
    return right.double().mean().item()


# ---- what wrong answers compute ----------------------------------------------------------------------------------

_POSITION = "Compare with the label's position, `labels % classes_per_task`."


def _example() -> tuple[Tensor, Tensor]:
    """24 samples, 3 tasks of 2 classes, logits all negative, in which every reading below gives a different score."""
    generator = torch.Generator().manual_seed(SEED)
    labels = torch.arange(6).repeat(4)
    logits = torch.randn(24, 6, generator=generator)
    logits[torch.arange(24), labels] += 0.9
    logits[:, 4:] += 0.8  # the last task is favoured, as after fine-tuning
    return logits - 5, labels


def _share(right: Any) -> float:
    return float(np.asarray(right, dtype=float).mean())


def _readings(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Scores of right and wrong readings, in plain NumPy and loops, independent of the reference."""
    values, true = logits.numpy(), labels.numpy()
    guess = values.argmax(axis=1)
    own_guess = np.array(
        [2 * (y // 2) + row[2 * (y // 2) : 2 * (y // 2) + 2].argmax() for row, y in zip(values, true, strict=True)]
    )
    zeroed = np.where(np.arange(6)[None] // 2 == true[:, None] // 2, values, 0)
    return {
        "class": _share(guess == true),
        "task": _share(own_guess == true),
        "domain": _share(guess % 2 == true % 2),
        "same task": _share(guess // 2 == true // 2),
        "masked with zero": _share(zeroed.argmax(axis=1) == true),
        "summed": _share(values.reshape(24, 3, 2).sum(axis=1).argmax(axis=1) == true % 2),
        "own position is the label": _share(own_guess % 2 == true),
        "any position is the label": _share(guess % 2 == true),
        "last task only": _share(4 + values[:, 4:].argmax(axis=1) == true),
        "first task only": _share(values[:, :2].argmax(axis=1) == true % 2),
    }


def _class_criterion(answer: Answer) -> None:
    logits, labels = _example()
    score = _readings(logits, labels)
    actual = answer(logits, labels, 2, "class")
    mistakes = {
        "This lets only the sample's own task compete, so it uses the task's identity. "
        "Class-incremental means that all columns compete.": score["task"],
        "This lets only the last task's columns compete. All classes do, old and new.": score["last task only"],
        "This counts an answer as right if its task is right. It must be the right class.": score["same task"],
        "This is a number of samples. Accuracy is the share: divide by how many there are.": 24 * score["class"],
        "This is in per cent. The course writes accuracy as a share between 0 and 1.": 100 * score["class"],
        "This is the error rate; accuracy is the share that is right.": 1 - score["class"],
    }
    diagnose(actual, mistakes, expected=score["class"])
    close(actual, score["class"], "Class-incremental: the largest of all logits must be the right column.")


def _task_criterion(answer: Answer) -> None:
    logits, labels = _example()
    score = _readings(logits, labels)
    actual = answer(logits, labels, 2, "task")
    mistakes = {
        "All columns compete here, as in class-incremental learning. The task is given: only its own columns may win.": score[
            "class"
        ],
        "You give the other tasks' columns the logit 0. Logits can be negative, and then 0 wins. "
        "Use minus infinity, or look at the task's own columns only.": score["masked with zero"],
        "This is the score of the domain question: the winner among all columns, by its position. "
        "Here the task is given: choose among its own columns.": score["domain"],
        "This counts whether the network found the right task. The task is given here; the question is "
        "which of its classes it is.": score["same task"],
        "You compare the winner's place among the task's own columns with the label, which is a column. "
        + _POSITION: score["own position is the label"],
        "You always choose among the last task's columns. Each sample brings its own task: `labels // classes_per_task`.": score[
            "last task only"
        ],
        "You always choose among the first task's columns. Each sample brings its own task: `labels // classes_per_task`.": score[
            "first task only"
        ],
    }
    diagnose(actual, mistakes, expected=score["task"])
    close(actual, score["task"], "Task-incremental: the largest logit among the columns of the sample's own task.")


def _domain_criterion(answer: Answer) -> None:
    logits, labels = _example()
    score = _readings(logits, labels)
    actual = answer(logits, labels, 2, "domain")
    mistakes = {
        "This asks for the very class. The domain question is only the position within the task: "
        "an answer with the right position is right, whatever task it comes from.": score["class"],
        "This uses the task's identity: the winner among the sample's own columns. In the domain question nobody tells "
        "the task; all columns compete, then only the position counts.": score["task"],
        "You add up each position's logits over the tasks. Here single columns compete: take the largest of all logits, "
        "then its position.": score["summed"],
        "You compare the winner's position with the label, which is a column. " + _POSITION: score[
            "any position is the label"
        ],
        "You divide (`//`) by classes_per_task, which gives the task. The position within it is the remainder, `%`.": score[
            "same task"
        ],
    }
    diagnose(actual, mistakes, expected=score["domain"])
    close(
        actual, score["domain"], "Domain-incremental: the winner of all columns has the right position within its task."
    )


def _sizes_and_names(answer: Answer) -> None:
    logits = torch.tensor(
        [[0.1, 0.9, 0.2, 0.3, 0.4, 0.8], [0.7, 0.1, 0.2, 0.5, 0.6, 0.3], [0.1, 0.2, 0.3, 0.6, 0.7, 0.9]]
    )
    labels = torch.tensor([4, 0, 5])  # two tasks of three classes
    before = logits.clone()
    actual = [answer(logits, labels, 3, scenario) for scenario in ("class", "task", "domain")]
    if not torch.equal(logits, before):
        raise Changed(
            "Your function writes into the logits it is given; the next scenario would be scored on the masked ones."
        )
    close(actual, [2 / 3, 2 / 3, 1], "Three classes per task: nothing may assume two.")
    try:
        answer(logits, labels, 3, "classes")
    except NotImplementedError:
        raise
    except ValueError:
        return
    except Exception as error:
        raise Wrong(f"An unknown scenario should raise a ValueError; yours raises {type(error).__name__}.") from None
    raise Wrong(
        "An unknown scenario ('classes') is scored without a word. A typing mistake would go unnoticed: "
        "raise a ValueError that names the three scenarios."
    )


EXERCISES = [
    Exercise(
        id="01.5",
        title="One network, three questions",
        difficulty=3,
        minutes=15,
        points=3,
        reference=scenario_accuracy,
        criteria=[
            Criterion("class: all columns compete", _class_criterion),
            Criterion("task: only the sample's own columns compete", _task_criterion),
            Criterion("domain: only the position within the task counts", _domain_criterion),
            Criterion("any number of classes per task; other scenarios are an error", _sizes_and_names),
        ],
        hints=(
            "`labels // classes_per_task` is a sample's task, `labels % classes_per_task` its position within the task. "
            "The same works for a predicted column.",
            "class and domain both start from `logits.argmax(dim=1)`. For task, "
            "`logits.reshape(N, -1, classes_per_task)` has one row of logits per task.",
            "For task: `own = logits.reshape(N, -1, k)[torch.arange(N), labels // k]` holds the right columns; "
            "compare `own.argmax(dim=1)` with the position `labels % k`.",
        ),
    )
]
