"""Words as fixed random vectors: texts that need no model, for demonstrations and tests."""

from __future__ import annotations

import re

import numpy as np

from dinov3.data.randomness import generator
from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.base import Text

WORD = re.compile(r"\w+")


class HashedWords:
    """Each word is a row of standard normal numbers that depend on the word alone; longer texts are cut."""

    def __init__(self, length: int = 16, width: int = 64) -> None:
        if length < 1 or width < 1:
            raise GenerateError(f"hash:{length}:{width}: tokens and width are at least 1")
        self.length, self.width = length, width

    @property
    def name(self) -> str:
        return f"hash:{self.length}:{self.width}"

    def encode(self, text: str) -> Text:
        """Words in small letters, in their order."""
        words = WORD.findall(text.lower())[: self.length]
        tokens = np.zeros((self.length, self.width), np.float16)
        mask = np.zeros(self.length, np.uint8)
        for place, word in enumerate(words):
            number = int.from_bytes(word.encode(), "little")
            tokens[place] = generator(number, "hashed word").standard_normal(self.width)
            mask[place] = 1
        return Text(tokens, mask)
