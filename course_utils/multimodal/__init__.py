"""Language beside vision: a small CLIP, fusion, and what sentences do for continual learning. Built in lesson 05.

    texts = descriptions.of("fashion_mnist")                       # class name -> sentences
    tokenizer = Tokenizer.build(s for sentences in texts.values() for s in sentences)
    stream = with_text(streams.class_incremental(data, 5), texts, tokenizer)
    model = build_clip(stream, texts, tokenizer)                   # its classes are sentences, not rows of a matrix
    Learner(model, [methods.Replay(500), Contrastive()], epochs=2).fit(stream)

`zero_shot` answers for classes never trained on, `signs` and `invented` hold combinations out, `Fusion` lets patches look at
words, `TextReplay` compares memories at equal bytes, `speed` measures the data path, `pretrained` brings open_clip.
"""

from __future__ import annotations

from course_utils.multimodal import descriptions, invented, pretrained, signs, speed, zero_shot
from course_utils.multimodal.clip import CLIP, TextHead, build_clip, ensemble, prompt_tokens
from course_utils.multimodal.contrastive import MAX_SCALE, collisions, contrastive_loss, same_label, similarity
from course_utils.multimodal.fusion import CrossAttention, Fusion, Looked, TextPaths, build_fusion
from course_utils.multimodal.leaks import reads_labels
from course_utils.multimodal.pretrained import PretrainedUnavailable
from course_utils.multimodal.replay import CONTENTS, TextReplay, bytes_of, samples_within
from course_utils.multimodal.text import TextTransformer
from course_utils.multimodal.tokenizer import Tokenizer
from course_utils.multimodal.training import Contrastive, same_pairs, with_text

__all__ = [
    "CLIP",
    "CONTENTS",
    "MAX_SCALE",
    "Contrastive",
    "CrossAttention",
    "Fusion",
    "Looked",
    "PretrainedUnavailable",
    "TextHead",
    "TextPaths",
    "TextReplay",
    "TextTransformer",
    "Tokenizer",
    "build_clip",
    "build_fusion",
    "bytes_of",
    "collisions",
    "contrastive_loss",
    "descriptions",
    "ensemble",
    "invented",
    "pretrained",
    "prompt_tokens",
    "reads_labels",
    "same_label",
    "same_pairs",
    "samples_within",
    "signs",
    "similarity",
    "speed",
    "with_text",
    "zero_shot",
]
