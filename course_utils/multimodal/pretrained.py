"""A pretrained CLIP through open_clip, where package and weights can be had; a plain sentence where they cannot.

The network is put into the course's own `CLIP`, so that the learner, `zero_shot`, `Contrastive` and LoRA work on it unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import lora
from course_utils.datasets import cache
from course_utils.models import ExpandableHead, HeadedModel
from course_utils.multimodal.clip import CLIP, prompt_tokens

DEFAULT = ("ViT-B-32", "laion2b_s34b_b79k")  # about 600 MB
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images


class PretrainedUnavailable(RuntimeError):
    """The package or the weights cannot be had here. The message is a sentence to show: it says why, and what to do."""


class Pretrained(NamedTuple):
    """An open_clip network, its tokenizer, what it is called, and the grey values that it expects.

    Attributes:
        network: open_clip's own module, in eval mode.
        tokenizer: texts -> `(texts, length)` token ids.
        name: for titles: which network, which weights.
        mean, std: of its training images, three numbers each.
    """

    network: Any
    tokenizer: Any
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(
    name: str = DEFAULT[0], weights: str = DEFAULT[1], *, folder: str | Path | None = None, device: str = "cpu"
) -> Pretrained:
    """Load a pretrained CLIP from a folder on this machine, or let open_clip download it.

    Args:
        name, weights: as open_clip calls them; see `open_clip.list_pretrained()`.
        folder: instead of both: with `open_clip_config.json` and the weights, as `save` and the Hugging Face Hub have it.

    Raises:
        PretrainedUnavailable: open_clip is not installed, the folder is missing, incomplete or damaged, the download
            failed, or `COURSE_OFFLINE` forbids it. Weights drawn at random never take the place of trained ones.

    Built in lesson 05.
    """
    open_clip = _package()
    if folder is not None:
        place = Path(folder)
        if not (place / "open_clip_config.json").is_file():
            raise PretrainedUnavailable(
                f"No pretrained CLIP: {place} holds no open_clip_config.json. Give the folder of a network that was saved "
                "with `pretrained.save` or downloaded from the Hugging Face Hub."
            )
        name, source, options = place.name, f"local-dir:{place}", {}
    elif cache.offline():
        raise PretrainedUnavailable(
            f"No pretrained CLIP: COURSE_OFFLINE forbids the download of {name} ({weights}). Unset it, or give the folder "
            "of a network that lies on this machine."
        )
    else:
        source, options = name, {"pretrained": weights}
    try:
        network = open_clip.create_model(source, require_pretrained=True, device=device, **options)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # open_clip and its downloader raise whatever they meet
        raise PretrainedUnavailable(
            f"No pretrained CLIP: {place if folder is not None else f'{name} ({weights})'} cannot be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). "
            f"{'Save or copy it again.' if folder is not None else 'Check the network and the names.'}"
        ) from error
    settings = getattr(network.visual, "preprocess_cfg", None) or {}
    mean, std = tuple(settings.get("mean", MEAN)), tuple(settings.get("std", STD))
    return Pretrained(network.eval(), tokenizer, f"{name}{'' if folder else f', {weights}'}", mean, std)


def save(network: Any, model_config: Mapping[str, Any], folder: str | Path) -> None:
    """Write an open_clip network so that `load(folder=...)` reads it back: for a class without network.

    Args:
        network: open_clip's module.
        model_config: `embed_dim`, `vision_cfg`, `text_cfg`: what `open_clip.get_model_config(name)` gives.
    """
    import json

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    settings = getattr(network.visual, "preprocess_cfg", None) or {}
    content = {"model_cfg": dict(model_config), "preprocess_cfg": dict(settings)}
    (place / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    torch.save(network.state_dict(), place / "open_clip_pytorch_model.bin")


def _package() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise PretrainedUnavailable(
            "No pretrained CLIP: the package open_clip is not installed. Install it with `pip install open_clip_torch`."
        ) from error
    return open_clip


class ImageTower(HeadedModel):
    """open_clip's image side as a feature extractor for the course's images: any size, grey or colour, in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: Pretrained):
        super().__init__()
        self.visual = pretrained.network.visual
        size = self.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.register_buffer("mean", torch.tensor(pretrained.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(pretrained.std).view(1, 3, 1, 1))
        self.head = ExpandableHead(len(pretrained.network.encode_text(pretrained.tokenizer(["a"]))[0]))

    def features(self, x: Tensor) -> Tensor:  # (batch, 1 or 3, H, W) -> (batch, dim)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=self.size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return self.visual((x - self.mean) / self.std)


class TextTower(nn.Module):
    """open_clip's text side: token ids to unit vectors."""

    def __init__(self, network: Any, tokenizer: Any, dim: int):
        super().__init__()
        # The rest of the network, without a second copy of the image side in parameters and saved runs.
        self.network = network
        self.context_length, self.dim = int(tokenizer.context_length), dim
        del self.network.visual, self.network.logit_scale  # the head has the temperature

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network.encode_text(tokens, normalize=True)


def classifier(
    pretrained: Pretrained,
    names: Sequence[str],
    descriptions: Mapping[str, Sequence[str]],
    num_outputs: int | None = None,
) -> CLIP:
    """The pretrained network as the course's `CLIP`: zero-shot at once, and ready for a stream.

    It takes the network over: `pretrained.network` is of no use afterwards.

    Args:
        names: classes in the order of the head's columns: `stream.class_names`.
        descriptions: class name -> sentences; `descriptions.from_templates(names)` for a network that knows the words.
        num_outputs: classes that compete; default is all. Give 0 to let a learner add them task by task.

    Built in lesson 05.
    """
    network, tokenizer = pretrained.network, pretrained.tokenizer
    with torch.random.fork_rng(devices=[]):  # what the head draws is overwritten
        image = ImageTower(pretrained)
        scale = float(network.logit_scale.detach().exp())
        text = TextTower(network, tokenizer, image.head.num_features)
        prompts = prompt_tokens(names, descriptions, tokenizer)
        model = CLIP(image, text, prompts, temperature=max(1 / scale, 0.01))
    with torch.no_grad():
        model.head.projection.copy_(torch.eye(len(model.head.projection)))
    model.head.grow(len(names) if num_outputs is None else num_outputs)
    return model.to(next(network.parameters()).device)


def adaptable(model: nn.Module) -> list[str]:
    """Layers of a network that `lora.inject` can adapt so that it has an effect.

    PyTorch's `nn.MultiheadAttention` keeps query, key and value in one bare matrix (`in_proj_weight`), and reads the weight
    of its `out_proj` past the layer's own `forward`. Neither can carry an adapter. What is left of a transformer of
    open_clip are the dense layers of its MLPs, `c_fc` and `c_proj`, two thirds of its weights, and the convolution that cuts
    the image into patches. One is missing: open_clip asks the first block of the text side for its `c_fc.weight`, to learn in
    which precision it computes, and an adapted layer has none.
    """
    barred = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    fitting = [name for name in lora.candidates(model) if not name.startswith(tuple(barred))]
    return [name for name in fitting if not (name.startswith("text.") and name.endswith(".resblocks.0.mlp.c_fc"))]


def adapt(
    model: CLIP, rank: int = 8, alpha: float = 8.0, *, towers: Sequence[str] = ("image",), seed: int = 0
) -> list[str]:
    """LoRA on a pretrained network: freeze it, put adapters beside the dense layers of its MLPs. The head goes on learning.

    Args:
        towers: "image", "text" or both. With the text tower left alone, what a class means cannot drift.

    Returns:
        Names of the adapted layers, for `lora.LoRA(patterns=...)` too.

    Raises:
        ValueError: a tower that is not there or has no such layer.
    """
    dense = [name for name in adaptable(model) if isinstance(lora.candidates(model)[name], nn.Linear)]
    layers = [name for name in dense if name.split(".")[0] in towers]
    missing = [tower for tower in towers if not any(name.startswith(f"{tower}.") for name in layers)]
    if missing or not layers:
        raise ValueError(f"towers={list(towers)}: nothing to adapt in {missing}; layers are {dense[:4]} ...")
    return lora.inject(model, layers, rank, alpha, seed=seed)


def linear_probe(
    features: Tensor, y: Tensor, test_features: Tensor, test_y: Tensor, strength: float = 1.0
) -> tuple[float, Any]:
    """Logistic regression on frozen features: how much do they know already?

    Args:
        features, test_features: `(N, dim)`, from `zero_shot.image_embeddings`.
        y, test_y: `(N,)` labels.
        strength: scikit-learn's C, the inverse of the weight decay. Choose it on validation images.

    Returns:
        Accuracy on the test features, and the fitted model.

    Source: Radford et al. 2021, section 3.2. Built in lesson 05.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=1000).fit(np.asarray(features.cpu()), np.asarray(y.cpu()))
    return float(fitted.score(np.asarray(test_features.cpu()), np.asarray(test_y.cpu()))), fitted
