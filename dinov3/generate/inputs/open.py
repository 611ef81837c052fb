"""From the words of a command line to texts and latents: ``hash``, ``t5:FOLDER``, ``pixels``, ``vae:FOLDER``, ``npy:FOLDER``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.base import LatentCoder, Text, TextCoder
from dinov3.generate.inputs.files import ArrayFiles, Names, caption_of, captioned, digest_of, file_in, read_captions
from dinov3.generate.inputs.hashed import HashedWords
from dinov3.generate.inputs.pixels import PooledPixels
from dinov3.generate.inputs.t5 import LENGTH, T5Texts
from dinov3.generate.inputs.vae import VaeLatents
from dinov3.system.paths import expanded

NPY = "npy:"
TEXTS = "hash[:TOKENS:WIDTH], t5:FOLDER[:TOKENS] or npy:FOLDER"
LATENTS = "pixels, vae:FOLDER or npy:FOLDER"


def text_coder(word: str) -> TextCoder:
    """``hash``, ``hash:16:64``, ``t5:FOLDER`` or ``t5:FOLDER:128``. GenerateError for anything else."""
    kind, _, rest = word.partition(":")
    try:
        if kind == "hash":
            return HashedWords(*map(int, rest.split(":"))) if rest else HashedWords()
        if kind == "t5" and rest:
            folder, _, tokens = rest.rpartition(":")
            given = folder and tokens.isdigit()
            return T5Texts.load(str(expanded(folder if given else rest)), int(tokens) if given else LENGTH)
    except (ValueError, TypeError) as error:
        raise GenerateError(f"text {word!r}: choose {TEXTS}") from error
    raise GenerateError(f"text {word!r}: choose {TEXTS}")


def latent_coder(word: str) -> LatentCoder:
    """``pixels`` or ``vae:FOLDER``. GenerateError for anything else."""
    kind, _, rest = word.partition(":")
    if kind == "vae" and rest:
        return VaeLatents.load(str(expanded(rest)))
    if word != "pixels":
        raise GenerateError(f"latents {word!r}: choose {LATENTS}")
    return PooledPixels()


@dataclass(frozen=True)
class TextInput:
    """The text of each image: captions through a coder, or arrays from files."""

    coder: TextCoder | None
    captions: Mapping[str, str]
    files: tuple[ArrayFiles, ArrayFiles] | None  # tokens, mask
    shape: tuple[int, int]  # tokens, width

    @classmethod
    def open(cls, word: str, captions: Path | None) -> TextInput:
        """Raises GenerateError."""
        told = {} if captions is None else read_captions(captions)
        if word.startswith(NPY):
            folder = expanded(word.removeprefix(NPY))
            files = ArrayFiles(folder, "t5h.npy"), ArrayFiles(folder, "t5m.npy")
            shape = files[0].first().shape
            if len(shape) != 2:
                raise GenerateError(f"{folder}: texts {shape}, not (tokens, width)")
            return cls(None, told, files, (shape[0], shape[1]))
        if captions is None:
            raise GenerateError(f"--text {word} needs --captions FILE.jsonl")
        coder = text_coder(word)
        return cls(coder, told, None, (coder.length, coder.width))

    @property
    def name(self) -> str:
        """What the tokens depend on beside the captions."""
        return "npy" if self.coder is None else self.coder.name

    @property
    def version(self) -> str:
        """What was said or stored: a set is not continued with other captions or arrays."""
        return digest_of(self.captions) + "".join(files.version() for files in self.files or ())

    def taken(self, names: Names) -> list[str]:
        """What an image takes of the captions or files, for messages; two images may not take the same."""
        if self.files is not None:
            return [str(path) for files in self.files if (path := files.path(names)) is not None]
        found = captioned(self.captions, names)
        return [] if found is None else [f"caption {found!r}"]

    def caption(self, names: Names) -> str | None:
        """In words, where there is one."""
        return caption_of(self.captions, names)

    def missing(self, names: Names) -> str | None:
        """Why an image cannot be used; None when it can."""
        if self.files is not None:
            gone = [files.ending for files in self.files if files.path(names) is None]
            return f"no {file_in(names)}.{gone[0]} in {self.files[0].folder}" if gone else None
        return "no caption" if self.caption(names) is None else None

    def of(self, names: Names) -> Text:
        """Raises GenerateError for arrays of another shape than the first."""
        if self.files is None:
            assert self.coder is not None
            return self.coder.encode(self.caption(names) or "")
        tokens, mask = self.files[0].half(names), self.files[1].read(names)
        if tokens.shape != self.shape or mask.shape != self.shape[:1]:
            raise GenerateError(
                f"{self.files[0].path(names)}: tokens {tokens.shape}, mask {mask.shape}; the first text has {self.shape}"
            )
        return Text(tokens, (mask != 0).astype(np.uint8))


@dataclass(frozen=True)
class LatentInput:
    """The latent of each image: through a coder, or from files."""

    coder: LatentCoder | None
    files: ArrayFiles | None
    channels: int

    @classmethod
    def open(cls, word: str) -> LatentInput:
        """Raises GenerateError."""
        if not word.startswith(NPY):
            coder = latent_coder(word)
            return cls(coder, None, coder.channels)
        files = ArrayFiles(expanded(word.removeprefix(NPY)), "vae.npy")
        shape = files.first().shape
        if len(shape) != 3:
            raise GenerateError(f"{files.folder}: latents {shape}, not (channels, rows, cols)")
        return cls(None, files, shape[0])

    @property
    def name(self) -> str:
        """What the latents depend on."""
        return "npy" if self.coder is None else self.coder.name

    def taken(self, names: Names) -> list[str]:
        """What an image takes of the files, for messages; two images may not take the same."""
        path = None if self.files is None else self.files.path(names)
        return [] if path is None else [str(path)]

    def missing(self, names: Names) -> str | None:
        """Why an image cannot be used; None when it can."""
        gone = self.files is not None and self.files.path(names) is None
        return f"no {file_in(names)}.vae.npy in {self.files.folder}" if gone and self.files is not None else None

    def of(self, names: Names, image: Tensor, size: tuple[int, int]) -> NDArray[np.float16]:
        """The latent ``[C, *size]`` of ``image [3, H, W]`` in [0, 1]. GenerateError for a file of another size."""
        if self.files is None:
            assert self.coder is not None
            return np.asarray(self.coder.encode(image).half().numpy())
        array = self.files.half(names)
        if array.shape != (self.channels, *size):
            raise GenerateError(
                f"{self.files.path(names)}: a latent {array.shape}; its image has the size of {(self.channels, *size)}"
            )
        return array


@dataclass(frozen=True)
class Inputs:
    """What a set holds beside features."""

    text: TextInput | None = None
    latents: LatentInput | None = None

    def describe(self) -> dict[str, Any]:
        """What the arrays depend on; nothing when there are none."""
        told: dict[str, Any] = {}
        if self.text is not None:
            told |= {"text": self.text.name, "text_length": self.text.shape[0], "text_width": self.text.shape[1]}
            told |= {"text_version": self.text.version}
        if self.latents is not None:
            told |= {"latents": self.latents.name, "channels": self.latents.channels}
            told |= {"latents_version": self.latents.files.version()} if self.latents.files is not None else {}
        return told

    def missing(self, names: Names) -> str | None:
        """Why an image cannot be used; None when it can."""
        for part in (self.text, self.latents):
            if part is not None and (reason := part.missing(names)) is not None:
                return reason
        return None

    def taken(self, names: Names) -> list[str]:
        """What an image takes of captions and files."""
        return [what for part in (self.text, self.latents) if part is not None for what in part.taken(names)]
