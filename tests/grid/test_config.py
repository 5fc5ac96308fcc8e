"""The configuration: what is wrong is refused with what to do, and it comes back from JSON as it was."""

from __future__ import annotations

import json

import pytest

from course_utils.grid import GridConfig, GridError

from .helpers import config, images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_repeats": 6, "devices": 4}, r"num_repeats=6 .* devices=4; use devices=3 or num_repeats=8"),
        ({"rule": "RL"}, r"rule='RL'; expected one of 'SL'"),
        ({"num_tasks": 0}, r"num_tasks=0; expected a whole number, 1 or more"),
        ({"num_tasks": True}, r"num_tasks=True; expected a whole number"),
        ({"num_tasks": 2.0}, r"num_tasks=2.0; expected a whole number"),
        ({"lr": -0.1}, r"lr=-0.1; expected a number from 0"),
        ({"lr": float("nan")}, r"lr=nan; expected a number"),
        ({"head": "new"}, r"head='new'; expected one of 'keep', 'reset'"),
        ({"er": 1}, r"er=1; expected True or False"),
        ({"data": ""}, r"data=''; expected the name"),
        ({"widths": (4, 4)}, r"widths=\(4, 4\); expected three"),
        ({"log_frequency": 7}, r"log_frequency=7 is more than steps_per_task=6.*use log_frequency=6"),
        ({"batch_size": 25}, r"batch_size=25 is more than the 24 training images.*use batch_size=24"),
        ({"subsamples": 5}, r"subsamples=5; expected an even number, at most 12"),
        ({"subsamples": 14}, r"subsamples=14; expected an even number, at most 12"),
        ({"er": True, "replay_images": 13}, r"replay_images=13 is more than train_images=12"),
        ({"convolution": "fft"}, r"convolution='fft'; expected one of"),
    ],
)
def test_a_wrong_field_is_refused_with_what_to_do(changes, message):
    with pytest.raises(GridError, match=message):
        config(**changes)


def test_more_tasks_than_pairs_of_classes_are_refused():
    images().check(config(num_tasks=4))
    with pytest.raises(GridError, match=r"num_tasks=5 needs 10 classes, patterns has 8; use at most 4"):
        images().check(config(num_tasks=5))


def test_it_comes_back_from_json():
    asked = config(er=True, l2=1e-4, lr=1, widths=[3, 4, 5])
    back = GridConfig.from_dict(json.loads(json.dumps(asked.to_dict())))
    assert back == asked and back.widths == (3, 4, 5) and isinstance(back.lr, float)
    assert asked.differences(config(er=True, l2=1e-4, lr=2, widths=(3, 4, 5))) == ["lr: 1.0 here, 2.0 there"]
    with pytest.raises(GridError, match=r"unknown fields \['speed'\], missing fields \['lr'\]"):
        GridConfig.from_dict({**{k: v for k, v in asked.to_dict().items() if k != "lr"}, "speed": 3})


def test_the_name_of_the_algorithm_says_what_it_is():
    assert config().algorithm == "SL_3_tasks"
    assert config(er=True, pl=True, ul=True, l2=0.1, num_tasks=40).algorithm == "SL_40_tasks_er_pl_ul_l2"


def test_log_points():
    assert config(steps_per_task=20, log_frequency=3).log_steps == [3, 6, 9, 12, 15, 18]
    assert config(steps_per_task=20, log_frequency=2).representation_points == [0, 1, 3, 7, 9]
    assert config(steps_per_task=8, log_frequency=1).representation_points == [0, 1, 3, 7]
    assert config(log_frequency=6).representation_points == [0]
    assert config(representations="all").representation_points == [0, 1]
    assert config(representations="last").representation_points == [1]
    assert config(representations="none").representation_points == []


def test_the_evaluated_tasks_are_capped_and_always_hold_the_current_one():
    assert config().evaluated(1) == [0, 1, 2]
    capped = config(num_tasks=100, eval_tasks=5)
    assert capped.evaluated(0)[-1] == 99 and capped.evaluated(60) == [0, 25, 50, 60, 74, 99]
    for task in range(100):
        assert task in capped.evaluated(task) and len(set(capped.evaluated(task))) == 6
        assert capped.evaluated(task) == sorted(capped.evaluated(task))
    assert config(num_tasks=3, eval_tasks=2).evaluated(0) == [0, 1, 2]
