"""The claims of lesson 07, as inequalities with margins: full runs from the record. Times are ratios within one run.

Letters are those of the prose in `solutions/07_compression.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import full_results

from course_utils.lessons import experiment
from course_utils.lessons.experiments import lesson_07 as lesson
from course_utils.lessons.experiments import lesson_07_figures as figures


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("07_compression", lesson, "Fashion-MNIST")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def front(full):
    """(version, key) -> one value a seed."""
    return lambda name, key: full["front"].values("the small CNN", lambda record: record["rows"][name][key])


@pytest.fixture
def vit(full):
    return lambda name, key: full["vit"].values("the ViT", lambda record: record["rows"][name][key])[0]
