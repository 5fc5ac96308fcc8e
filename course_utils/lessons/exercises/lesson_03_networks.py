"""What the exercises 03.3 and 03.7 share: gradients image by image, and a network that notices how it is treated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_utils.lessons.exercise import Wrong, close, to_array

Array = NDArray[np.float64]


def image_gradients(model: nn.Module, x: Tensor, function: Callable[[Tensor], Tensor]) -> Array:
    """Gradients of a function of one image's outputs, `(1, outputs)` -> scalar; `(n, parameters)`, one row per image."""
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(function(model(image[None])), parameters) for image in x]
    return np.array([np.concatenate([g.double().numpy().ravel() for g in row]) for row in rows])


def flat(result: Any, model: nn.Module, num_images: int) -> Array:
    """A student's dictionary as one vector `(parameters,)`, after what holds for every importance has been checked.

    Raises:
        Wrong: not a dictionary, a parameter is missing, or an entry has not its parameter's shape.
    """
    if result is None:
        raise Wrong("your function returns nothing: is there a `return`?")
    if not isinstance(result, Mapping):
        raise Wrong(f"Return a dictionary, parameter name -> tensor; your function returned a {type(result).__name__}.")
    values = []
    for name, parameter in model.named_parameters():
        if name not in result:
            raise Wrong(f"Your dictionary has no entry `{name}`. `dict(model.named_parameters())` has all the names.")
        value = to_array(result[name])
        if value.shape == (num_images, *parameter.shape):
            raise Wrong(
                f"The entry `{name}` still has one row per image, {value.shape}: take the mean over the images."
            )
        if value.shape != tuple(parameter.shape):
            raise Wrong(
                f"The entry `{name}` has shape {value.shape}; its parameter has shape {tuple(parameter.shape)}."
            )
        values.append(value.ravel())
    return np.concatenate(values)


class Noting(nn.Module):
    """A small network with BatchNorm and dropout; `trained` notes whether it was ever asked in train mode."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)]
        self.layers = nn.Sequential(*layers)
        self.trained = False
        with torch.no_grad():
            for value in [*self.parameters(), *self.buffers()]:
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5)  # running statistics unlike those of any batch

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1, 2, 2) -> (batch, 3)
        self.trained |= any(module.training for module in self.modules())
        return self.layers(x)


_TRAIN_MODE = (
    "The network ran in train mode: dropout zeroes random outputs, and BatchNorm mixes the images of a batch and moves its "
    "running statistics. Call `model.eval()` first."
)


def leaves_the_network_alone(importance: Callable[[nn.Module, Tensor], Any]) -> None:
    """Require that an importance is measured in eval mode and leaves mode, buffers and weights as they were.

    Args:
        importance: the student's function of (model, x); the same randomness in each call.

    Raises:
        Wrong: with the first of these that is not so.
    """
    torch.manual_seed(4)
    model, x = Noting(), torch.rand(6, 1, 2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for training in (True, False):
        model.train(training)
        try:
            results.append(flat(importance(model, x), model, len(x)))
        except Exception:
            if model.trained:  # BatchNorm in train mode refuses a single image
                raise Wrong(_TRAIN_MODE) from None
            raise
        if model.trained:
            raise Wrong(_TRAIN_MODE)
        after = model.state_dict()
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        if changed:
            raise Wrong(f"Your function changed `{changed[0]}` of the network. Measuring must not move anything.")
        modes = {module.training for module in model.modules()}
        if modes != {training} and training:
            raise Wrong(
                "The network came in train mode and you leave it in eval mode: whatever is trained next has no dropout. "
                "Remember `model.training` and put it back at the end."
            )
        if modes != {training}:
            raise Wrong(
                "The network came in eval mode and you leave it in train mode. Do not end with `model.train()` whatever the "
                "mode was: remember `model.training` and put that back."
            )
    close(
        results[0],
        results[1],
        "The importance depends on the mode in which the network comes. Measure in eval mode, whatever the mode was.",
        rtol=1e-4,
    )
