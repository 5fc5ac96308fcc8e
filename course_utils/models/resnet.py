"""torchvision's ResNet-18 for small images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.models.head import ExpandableHead, HeadedModel

STEMS = ("3x3", "strided", "imagenet")
FIRST = "conv1.weight"


class ResNet18(HeadedModel):
    """torchvision's ResNet-18 with another stem and an expandable head; 11.2 million parameters.

    The layers carry torchvision's names (`conv1`, `bn1`, `layer1.0.conv1`, ...), so its weights fit.

    Args:
        image_shape: (channels, height, width); grey or colour.
        stem: "3x3", one convolution of stride 1; "strided", the same with stride 2, so that everything behind it has a
            quarter of the pixels; "imagenet", torchvision's 7x7 of stride 2 with max-pooling.
        weights: None for random ones; a name of `torchvision.models.ResNet18_Weights`, such as "IMAGENET1K_V1", taken
            from torch.hub's cache or downloaded; or the path of a saved state dict. What a name does not cover is
            random: the head always, the stem unless it is "imagenet".
        standardize: bring every image to mean 0 and standard deviation 1 first. With pretrained weights too: they were
            trained on images that were normalised by channel, which is close to it.

    Raises:
        ValueError: an unknown stem or name of weights, or a state dict that does not fit.
        FileNotFoundError: the weights are not on disk and may not (COURSE_OFFLINE) or cannot be downloaded.

    Source: He et al. 2016, "Deep residual learning for image recognition"; the 3x3 stem is theirs for CIFAR-10.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        stem: str = "3x3",
        weights: str | Path | None = None,
        standardize: bool = True,
    ):
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r} is unknown; choose one of {', '.join(STEMS)}")
        from torchvision.models import resnet18  # here: torchvision takes a second to load

        channels = image_shape[0]
        network = resnet18(weights=None)
        self.normalize = nn.GroupNorm(1, channels, affine=False) if standardize else nn.Identity()
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 2 if stem == "strided" else 1)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's layers
        self.bn1, self.relu = network.bn1, network.relu
        self.maxpool = network.maxpool if stem == "imagenet" else nn.Identity()
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1, network.layer2, network.layer3, network.layer4
        )  # fmt: skip
        self.head = ExpandableHead(512)
        if weights is not None:
            self._load(pretrained_weights(weights), stem)
        self.to(memory_format=torch.channels_last)  # the same numbers, and faster on a CPU

    def features(self, x: Tensor) -> Tensor:  # (batch, C, H, W) -> (batch, 512)
        x = self.normalize(x.contiguous(memory_format=torch.channels_last))
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def _load(self, state: dict[str, Tensor], stem: str) -> None:
        state = {name: value for name, value in state.items() if not name.startswith(("fc.", "head."))}
        first = state.get(FIRST)
        if first is not None and first.shape[1] == 3 and self.conv1.in_channels == 1:
            state[FIRST] = first = first.sum(dim=1, keepdim=True)  # a grey image is the same in all three colours
        if first is not None and first.shape[2:] != self.conv1.weight.shape[2:] and stem != "imagenet":
            del state[FIRST]  # a 7x7 filter in a 3x3 stem: this one layer is learned anew
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("head.")}
        wrong = sorted({n for n in {*own, *state} - {FIRST} if n not in own or n not in state})
        wrong += [name for name in own if name in state and own[name].shape != state[name].shape]
        if wrong:
            raise ValueError(
                f"these weights do not fit a ResNet-18 with stem={stem!r}: {len(wrong)} names or shapes differ, "
                f"such as {wrong[0]}; save them from torchvision's resnet18 or from this class"
            )
        self.load_state_dict(state, strict=False)


def pretrained_weights(weights: str | Path) -> dict[str, Tensor]:
    """A state dict of torchvision's ResNet-18, from a file or by torchvision's name, see `ResNet18`."""
    path = Path(weights)
    if path.suffix in (".pt", ".pth"):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; give the path of a saved state dict")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    from torchvision.models import ResNet18_Weights

    names = [member.name for member in ResNet18_Weights]
    if str(weights) not in [*names, "DEFAULT"]:
        raise ValueError(
            f"weights={str(weights)!r} is unknown; choose {' or '.join(names)}, the path of a .pt or .pth file, or None"
        )
    entry: Any = ResNet18_Weights[str(weights)]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    cure = f"put {cached.name} into {cached.parent}, give a path, or use weights=None"
    if not cached.is_file() and os.environ.get("COURSE_OFFLINE", "").strip().lower() not in ("", "0", "false", "no"):
        raise FileNotFoundError(f"COURSE_OFFLINE forbids the download of {cached.name}; unset it, or {cure}")
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{cached.name} could not be had ({error}); {cure}") from error
