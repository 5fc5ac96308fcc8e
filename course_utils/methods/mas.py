"""Memory Aware Synapses: the importance is how much the outputs change, no label needed."""

from __future__ import annotations

import torch

from course_utils import seeding
from course_utils.methods.fisher import draw, per_sample_gradients
from course_utils.methods.quadratic import Quadratic


class MAS(Quadratic):
    """Hold the weights that move the squared length of the output vector.

    `importance = mean over x of |d ||f(x)||^2 / d theta|`: an absolute value per image, so that images cannot
    cancel each other. Importances of all tasks add up, around the latest weights.

    Args:
        strength: lambda; the penalty of the paper is lambda, ours lambda/2.
        samples: images per task that it is measured on; None uses all.

    Source: Aljundi et al. 2018, eq. 2 and 4. Built in lesson 03, exercise 03.7.
    """

    name = "mas"
    settings = ("strength", "samples")

    def __init__(self, strength=1.0, samples=1000):
        super().__init__(strength, online=True)
        self.samples = samples

    def importance(self, learner, task, data):
        generator = seeding.generator(learner.seed, task.index, 6)
        index = draw(len(data), self.samples, generator)
        with torch.no_grad():  # the images as they are, not augmented
            x, task_of = learner.inputs(data.x[index]), data.fields["task"][index].to(learner.device)

        def squared_length(out, task_of):
            # Outputs of other tasks are masked with the lowest number, whose square is infinite.
            out = learner.visible(out, task_of)
            return out.masked_fill(out == torch.finfo(out.dtype).min, 0.0).square().sum()

        total = {}
        for part in per_sample_gradients(learner.model, squared_length, x, task_of):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient.abs().sum(dim=0)
        return {name: value / len(x) for name, value in total.items()}
