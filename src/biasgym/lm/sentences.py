"""Sentences as unit vectors: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019), for judging, not for editing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer

from biasgym.data import fetch_encoder, quiet_libraries
from biasgym.errors import ModelError

SENTENCES_A_BATCH = 64
LONGEST = 256  # word pieces; what stands behind is cut off, as the encoder was trained


class SentenceEncoder:
    """Mean of the last hidden states, scaled to length 1; float32 on the CPU, the same vectors every time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(model.config.hidden_size)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, shape [texts, width]; similar meaning is a cosine near 1."""
        result = np.zeros((len(texts), self.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        for start in range(0, len(order), SENTENCES_A_BATCH):
            group = order[start : start + SENTENCES_A_BATCH]
            batch = self.tokenizer([texts[i] for i in group], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            result[group] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return result


def load_encoder(*, offline: bool = False, tell: Callable[[str], None] = lambda _: None) -> SentenceEncoder:
    """The encoder, fetched once (84 MB); ModelError when it cannot be had."""
    return read_encoder(fetch_encoder(offline=offline, tell=tell))


def read_encoder(folder: Path) -> SentenceEncoder:
    """An encoder from a folder with a BERT-like model and its tokenizer."""
    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot read the sentence encoder in `{folder}`: {str(error).splitlines()[0][:160]}; remove that folder") from None
    return SentenceEncoder(model, tokenizer)
