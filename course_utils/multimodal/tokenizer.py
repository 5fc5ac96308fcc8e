"""From words to numbers: a vocabulary of whole words, built from the texts of the course."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")
WORD = re.compile(r"[^\W_]+")  # letters and digits of any language


class Tokenizer:
    """Words to token ids and back: `<begin>` words `<end>` `<pad>` ..., always `context_length` of them.

    Lower case; everything but letters and digits separates words. A word that was not there when the vocabulary was
    built is `<unknown>`. A text that is too long loses its last words and keeps its `<end>`, because the text
    transformer reads the sentence off that token.

    Args:
        words: the vocabulary, without the special tokens.
        context_length: tokens of every text, begin and end included.

    Raises:
        ValueError: a word twice, something that is not one word, or a length that has no room for a word.

    Built in lesson 05.
    """

    def __init__(self, words: Sequence[str], context_length: int = 32):
        wrong = [word for word in words if split_words(word) != [word]]
        if wrong or len(set(words)) != len(words):
            raise ValueError(f"words={wrong[:3] or 'the same word twice'}: give single words in lower case, each once")
        if context_length < 3:
            raise ValueError(f"context_length={context_length} leaves no room for a word; use at least 3")
        self.words, self.context_length = tuple(words), int(context_length)
        self.ids = {word: len(SPECIAL) + i for i, word in enumerate(self.words)}

    @classmethod
    def build(cls, texts: Iterable[str], context_length: int | None = None, min_count: int = 1) -> Tokenizer:
        """Vocabulary of all words of some texts, frequent words first, words of equal count by the alphabet.

        The order of the texts does not matter.

        Args:
            context_length: default is what the longest text needs.
            min_count: rarer words stay unknown.

        Raises:
            ValueError: there is no word.
        """
        split = [split_words(text) for text in texts]
        counts = Counter(word for words in split for word in words)
        kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        if not kept:
            raise ValueError(f"{len(split)} texts hold no word that occurs {min_count} times; nothing to learn from")
        longest = max(len(words) for words in split)
        return cls(kept, longest + 2 if context_length is None else context_length)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return len(SPECIAL) + len(self.words)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Token ids, `(texts, context_length)` int16: two bytes a token in a memory. One text gives one row.

        Raises:
            ValueError: the vocabulary does not fit int16 (32,763 words).
        """
        if self.vocab_size > torch.iinfo(torch.int16).max:
            raise ValueError(f"{len(self.words)} words do not fit 16-bit token ids; raise min_count")
        rows = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.full((len(rows), self.context_length), PAD, dtype=torch.int16)
        for row, text in enumerate(rows):
            ids = [self.ids.get(word, UNKNOWN) for word in split_words(text)][: self.context_length - 2]
            tokens[row, : len(ids) + 2] = torch.tensor([BEGIN, *ids, END], dtype=torch.int16)
        return tokens

    def decode(self, tokens: Tensor) -> list[str]:
        """The words of `(texts, length)` or `(length,)` token ids, without begin, end and padding."""
        names = [*SPECIAL, *self.words]
        rows = torch.atleast_2d(tokens).tolist()
        return [" ".join(names[i] for i in row if i not in (PAD, BEGIN, END)) for row in rows]

    def unknown(self, text: str) -> list[str]:
        """Words of a text that the vocabulary lacks, in their order, each once: tell whoever typed it."""
        return [word for word in dict.fromkeys(split_words(text)) if word not in self.ids]

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        content = {"words": list(self.words), "context_length": self.context_length}
        Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            words, length = content["words"], content["context_length"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a saved tokenizer ({error!r}); write one with `Tokenizer.save`") from error
        return cls(words, length)


def split_words(text: str) -> list[str]:
    """ "A red, ROUND sign" -> ["a", "red", "round", "sign"]."""
    return WORD.findall(text.lower())
