"""Per-sample gradients, and the diagonal of the Fisher information that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from course_utils import seeding
from course_utils.objectives import Regression
from course_utils.streams import Samples

Weights = dict[str, Tensor]  # parameter name -> tensor
LABELS = ("sampled", "all", "empirical")
CHUNK = 16  # samples at once; a gradient of every weight is held for each of them


class _SameLayout(torch.overrides.TorchFunctionMode):
    """Ignores requests for another memory layout, which `vmap` cannot fulfil; the numbers are the same."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **({} if function is Tensor.contiguous else kwargs or {}))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is in the mode it was in, frozen normalisation layers included."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def draw(count: int, samples: int | None, generator: torch.Generator) -> Tensor:
    """Rows of `samples` out of `count` images, without replacement; all of them for None.

    Raises:
        ValueError: no images.
    """
    if count == 0 or (samples is not None and samples < 1):
        raise ValueError(f"the importance of weights needs images: got {count} and samples={samples}; give at least 1")
    return torch.randperm(count, generator=generator)[:samples]


def per_sample_gradients(
    model: nn.Module, function: Callable[..., Tensor], *rows: Tensor, chunk: int = CHUNK
) -> Iterator[Weights]:
    """Gradients of a function of the outputs, for every sample on its own, in eval mode.

    The mean of these gradients is what an ordinary backward pass gives. Their squares cannot be had from it:
    the square of a mean is not the mean of squares.

    Args:
        model: left as it was: mode, buffers, `.grad`.
        function: `(out (1, outputs), *row (1, ...)) -> scalar`, for one sample.
        rows: `(n, ...)` each; the first holds the inputs of the network, the others go to `function`.
        chunk: samples that are computed at once.

    Yields:
        name -> `(chunk, *parameter.shape)`, for every trainable parameter.
    """
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= {name: buffer.clone() for name, buffer in model.named_buffers()}

    def of_one(weights: Weights, x: Tensor, *row: Tensor) -> Tensor:
        out = functional_call(model, (weights, fixed), (x[None],))
        return function(out, *(value[None] for value in row))

    gradients = vmap(grad(of_one), in_dims=(None, *[0] * len(rows)))
    with evaluating(model):
        for start in range(0, len(rows[0]), chunk):
            with _SameLayout():
                result = gradients(trained, *(value[start : start + chunk] for value in rows))
            yield result


def fisher_diagonal(
    learner, data: Samples, labels: str = "sampled", samples: int | None = None, generator=None
) -> Weights:
    """Diagonal of the Fisher information of the model's predictive distribution p(y | x), averaged over images.

    `F_i = mean over x of E_{y ~ p(y|x)} [(d log p(y|x) / d theta_i)^2]`, in eval mode. The label comes from the
    *model*. For regression p is a Gaussian of standard deviation `objective.noise` around the output.

    Args:
        learner: gives the model, the objective and the outputs that compete.
        data: the images.
        labels: "sampled" draws one label per image (unbiased); "all" sums over all labels, weighted with their
            probability (exact, one pass a label); "empirical" takes the true labels, which is another matrix.
        samples: number of images to use, drawn without replacement; None uses all.
        generator: draws images and labels; default follows (seed, task).

    Returns:
        name -> tensor of the parameter's shape, for every trainable parameter.

    Raises:
        ValueError: an unknown kind of labels, or no images.

    Source: Kirkpatrick et al. 2017; Kunstner et al. 2019 on the empirical one. Built in lesson 03, exercise 03.3.
    """
    if labels not in LABELS:
        raise ValueError(f"labels={labels!r} is unknown; choose one of {', '.join(LABELS)}")
    generator = generator or seeding.generator(learner.seed, learner.task.index, 5)
    index = draw(len(data), samples, generator)
    x, y, task = data.x[index], data.y[index].to(learner.device), data.fields["task"][index].to(learner.device)

    def loss(out, label, task_of, weight):  # one image: the square root makes its square count `weight` times
        return weight[0].sqrt() * negative_log_likelihood(learner.objective, learner.visible(out, task_of), label)

    with torch.no_grad(), evaluating(learner.model):
        inputs = learner.inputs(x)
        out = learner.visible(learner.predict(x), task)  # (n, competing)
    total: Weights = {}
    for label, weight in _targets(learner.objective, labels, out, y, generator):
        used = weight > 0  # outputs of other tasks have no probability
        for part in per_sample_gradients(learner.model, loss, inputs[used], label[used], task[used], weight[used]):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient.square().sum(dim=0)
    return {name: value / len(index) for name, value in total.items()}


def negative_log_likelihood(objective, out: Tensor, y: Tensor) -> Tensor:
    """-log p(y | x) of one sample, up to a constant: the loss, or half the squared distance in noise's units."""
    if isinstance(objective, Regression):
        return 0.5 * ((out - y.reshape(out.shape)) / objective.noise).square().sum()
    return objective.loss(out, y)


def _targets(objective, labels: str, out: Tensor, y: Tensor, generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of labels `(n, ...)` and their weights `(n,)`; over all pairs, the expectation over labels."""
    ones = torch.ones(len(out), device=out.device)
    if labels == "empirical":
        yield y, ones
    elif labels == "sampled":
        yield objective.sample(out, generator), ones
    elif isinstance(objective, Regression):
        for column in range(out.shape[1]):  # one standard deviation up: its squared gradient is the expectation
            step = torch.zeros_like(out)
            step[:, column] = objective.noise
            yield out + step, ones
    else:
        for column, probability in enumerate(out.softmax(dim=1).T):
            yield torch.full_like(y, column), probability
