"""A text classifier of the user's, from a folder as transformers saves it: the probability of one label, for scoring, not for editing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from biasgym.data import quiet_libraries
from biasgym.errors import ModelError, SpecError, unknown

TEXTS_A_BATCH = 32
LONGEST = 256  # tokens; what stands behind is not read
USUAL = ("toxic", "toxicity", "hate", "hateful", "hate speech", "offensive", "nothate_hate")


class Classifier:
    """P(label) of a sequence classifier: softmax over labels, or σ where labels do not exclude each other or there is one logit."""

    def __init__(self, model: Any, tokenizer: Any, label: int, *, name: str, key: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.label = label
        self.name = name
        self.key = key

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> list[float]:
        """Probability of the label for each text, four digits."""
        result = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        alone = self.model.config.problem_type == "multi_label_classification" or self.model.config.num_labels == 1
        for start in range(0, len(order), TEXTS_A_BATCH):
            group = order[start : start + TEXTS_A_BATCH]
            batch = self.tokenizer([texts[i] for i in group], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            logits = self.model(**batch.to(self.model.device)).logits.float()
            shares = (logits.sigmoid() if alone else logits.softmax(-1))[:, self.label]
            for i, share in zip(group, shares, strict=True):
                result[i] = round(float(share), 4)
        return result


def load_classifier(folder: Path, label: str, *, key: str) -> Classifier:
    """The classifier in a folder; `label` is the name of the label that is scored, and may be empty where one is plainly toxic.

    ModelError when the folder holds no classifier, SpecError for a label that it does not have.
    """
    quiet_libraries()
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"`{folder}` holds no text classifier: {str(error).splitlines()[0][:200]}") from None
    return Classifier(
        model, tokenizer, label_of(model.config.id2label, label, str(folder)), name=f"{folder.name}#{label}" if label else folder.name, key=key
    )


def label_of(labels: dict[int, str], wanted: str, where: str) -> int:
    """The number of the label that is scored: the one named, the only one, or the only one with a usual name."""
    names = {str(name).lower(): int(number) for number, name in labels.items()}
    if wanted:
        if wanted.lower() not in names:
            raise SpecError(f"{where}: {unknown('label', wanted, list(labels.values()))}")
        return names[wanted.lower()]
    usual = [number for name, number in names.items() if name in USUAL]
    if len(names) == 1 or len(usual) == 1:
        return usual[0] if usual else 0
    raise SpecError(f"which label of `{where}` is the toxic one? There is {', '.join(map(str, labels.values()))}; name it: {where}#LABEL")
