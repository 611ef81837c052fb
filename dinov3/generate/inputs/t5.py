"""Texts through a T5 encoder of Hugging Face's transformers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch

from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.features.cache import weights_digest
from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.base import Text

LENGTH = 512  # tokens, as T5 is used by diffusion transformers


class T5Texts:
    """The last hidden state of the encoder; texts are padded or cut to ``length`` tokens."""

    def __init__(self, encoder: Any, tokenizer: Any, length: int = LENGTH) -> None:
        self._encoder, self._tokenizer, self.length = encoder.eval(), tokenizer, length
        self.width = int(encoder.config.d_model)
        self.name = f"t5:{weights_digest(encoder)[:16]}:{length}"

    @classmethod
    def load(cls, folder: str, length: int = LENGTH) -> T5Texts:
        """From a folder, or a name in the hub's cache. GenerateError when it cannot be read, or transformers is missing."""
        prepare_torchvision()
        try:
            transformers: Any = import_module("transformers")
        except ImportError as error:
            raise GenerateError("--text t5 needs transformers: pip install 'dinov3[hf]'") from error
        try:
            encoder = transformers.T5EncoderModel.from_pretrained(folder)
            return cls(encoder, transformers.AutoTokenizer.from_pretrained(folder), length)
        except (OSError, ValueError) as error:
            raise GenerateError(f"--text t5:{folder}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def encode(self, text: str) -> Text:
        """GenerateError for values that fp16 cannot hold."""
        found = self._tokenizer(
            text, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self._encoder.device)
        hidden = self._encoder(input_ids=found.input_ids, attention_mask=found.attention_mask).last_hidden_state[0]
        tokens = hidden.float().cpu() * found.attention_mask[0, :, None].cpu()
        if float(tokens.abs().max()) > float(np.finfo(np.float16).max):
            raise GenerateError(f"text {text[:40]!r}: values of T5 beyond fp16: other weights?")
        return Text(tokens.half().numpy(), found.attention_mask[0].cpu().to(torch.uint8).numpy())
