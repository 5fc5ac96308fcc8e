"""The methods of the course, one file each, readable as the algorithm. No method at all is fine-tuning."""

from __future__ import annotations

from course_utils.methods import buffers
from course_utils.methods.base import Method
from course_utils.methods.calibrate import BalancedFinetune, WeightAlign, align_weights
from course_utils.methods.derpp import DERpp
from course_utils.methods.distill import Distill
from course_utils.methods.gdumb import GDumb
from course_utils.methods.joint import Joint
from course_utils.methods.replay import Replay

__all__ = [
    "BalancedFinetune",
    "DERpp",
    "Distill",
    "GDumb",
    "Joint",
    "Method",
    "Replay",
    "WeightAlign",
    "align_weights",
    "buffers",
]
