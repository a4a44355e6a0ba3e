"""Pairs of passages read by the sentence encoder with low-rank factors merged in: the trained part of the default judge."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from biasgym.errors import DataError
from biasgym.lm.sentences import SentenceEncoder

PAIRS_A_BATCH = 32
LONGEST_PAIR = 160  # word pieces, as trained; only the second passage is cut


class TrainedReader:
    """The encoder with W + up · down in the place of each trained W (Hu et al. 2021), and a linear head; float32 on the CPU."""

    def __init__(self, encoder: SentenceEncoder, factors: dict[str, torch.Tensor]) -> None:
        self.tokenizer = encoder.tokenizer
        self.model = deepcopy(encoder.model)
        self.weight, self.bias = factors["head.weight"].float(), factors["head.bias"].float()
        for name, down in factors.items():
            if name.endswith(".down"):
                place = name.removesuffix(".down")
                self.model.get_submodule(place).weight.data += factors[f"{place}.up"].float() @ down.float()

    @torch.no_grad()
    def read(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits, shape [pairs, outputs of the head]."""
        made = np.zeros((len(pairs), len(self.bias)), dtype=np.float32)
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][1]), i))
        for start in range(0, len(order), PAIRS_A_BATCH):
            group = order[start : start + PAIRS_A_BATCH]
            first, second = [pairs[i][0] for i in group], [pairs[i][1] for i in group]
            batch = self.tokenizer(first, second, padding=True, truncation="only_second", max_length=LONGEST_PAIR, return_tensors="pt")
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            pooled = torch.cat([states[:, 0], (states * mask).sum(1) / mask.sum(1)], 1)
            made[group] = (pooled @ self.weight.T + self.bias).numpy()
        return made


def read_reader(encoder: SentenceEncoder, path: Path) -> TrainedReader:
    """The reader whose factors lie in a safetensors file; DataError when they do not fit the encoder."""
    try:
        return TrainedReader(encoder, load_file(path))
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError) as error:
        raise DataError(f"cannot read the judge's weights `{path}`: {str(error).splitlines()[0][:160]}") from None
