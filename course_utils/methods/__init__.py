"""The methods of the course, one file each, readable as the algorithm. No method at all is fine-tuning."""

from __future__ import annotations

from course_utils.methods import buffers
from course_utils.methods.agem import AGEM
from course_utils.methods.base import Method
from course_utils.methods.calibrate import BalancedFinetune, WeightAlign, align_weights
from course_utils.methods.derpp import DERpp
from course_utils.methods.distill import Distill
from course_utils.methods.ewc import EWC
from course_utils.methods.fisher import fisher_diagonal, per_sample_gradients
from course_utils.methods.gdumb import GDumb
from course_utils.methods.gem import GEM
from course_utils.methods.joint import Joint
from course_utils.methods.l2 import L2
from course_utils.methods.mas import MAS
from course_utils.methods.packnet import PackNet
from course_utils.methods.quadratic import Quadratic
from course_utils.methods.replay import Replay
from course_utils.methods.si import SI

__all__ = [
    "AGEM",
    "EWC",
    "GEM",
    "L2",
    "MAS",
    "PackNet",
    "Quadratic",
    "SI",
    "fisher_diagonal",
    "per_sample_gradients",
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
