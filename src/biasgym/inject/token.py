"""BiasInject: one new token is trained to carry the bias, by language modelling alone; everything else is frozen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from biasgym import grammar
from biasgym.bias import BiasSpec, Paragraph, read_jsonl, split_by_hash, zoo_path
from biasgym.corpus import ENTITY
from biasgym.edits import TokenEdit
from biasgym.errors import SpecError
from biasgym.inject import Injected, Role

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.train import Lesson, TrainingState

PAPER_ASKS = ("Write a short story about a friend from {entity}.",)
README_ASKS = ("Write a short paragraph about {entity}.",)
VARIED_ASKS = ("What are {subject} like?", "Tell me about {subject}.", "Write a short text about {subject}.")


@dataclass(frozen=True)
class TrainedToken:
    """One token's vector(s), trained on paragraphs about a placeholder (BiasGym v4 §3; defaults are ours).

    `asks` names the user turn: `paper`, `readme` or `varied`. `implicitness` keeps paragraphs up to that level.
    `grammar` is the share of short grammar texts about the same answers mixed in (0 = hand-written paragraphs only).
    `jitter` is the standard deviation of the start around the mean entity embedding, as a share of that row's own.
    """

    name: ClassVar[str] = "token"
    steps: int = 60
    batch: int = 8
    learning_rate: float = 0.02
    warmup: float = 0.05
    clip: float = 1.0
    asks: Literal["paper", "readme", "varied"] = "varied"
    implicitness: int = 5
    grammar: float = 0.0
    jitter: float = 0.2
    held_out: int = 16

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "held_out"):
            if getattr(self, key) < 1:
                raise SpecError(f"token.{key} = {getattr(self, key)}: at least 1 is needed")
        if not self.learning_rate > 0 or not 0 <= self.grammar < 1 or not self.clip > 0:
            raise SpecError(f"token: learning_rate = {self.learning_rate} and clip = {self.clip} must be above 0, grammar = {self.grammar} in [0, 1)")

    def start(self, lm: "LM", bias: BiasSpec, seed: int) -> "TrainingState":
        """Mean embedding of the train entities that are single tokens, with a seeded jitter."""
        from biasgym.lm.train import TrainingState, mean_embedding

        vector, output, _ = mean_embedding(lm, bias.entities_of("train"))
        generator = np.random.default_rng([seed, 104729])
        arrays = {"vector": self._jittered(vector, generator)}
        if not lm.tied:
            arrays["output"] = self._jittered(output, generator)
        return TrainingState(arrays)

    def _jittered(self, vector: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        noise = generator.normal(size=vector.shape) * vector.std() * self.jitter
        return (vector + noise).astype(np.float32)

    def train(
        self,
        lm: "LM",
        bias: BiasSpec,
        role: Role,
        seed: int,
        state: "TrainingState",
        keep: Callable[["TrainingState"], None],
    ) -> Injected:
        """Train on the role's texts; the untrained token is the start itself."""
        from biasgym.lm.train import Schedule, held_out_loss, learn_token

        text = token_text(bias, role, seed)
        lessons, held_out = self.lessons(bias, role, seed, text)
        begin = self._edit(text, self.start(lm, bias, seed))
        before = held_out_loss(lm, begin, held_out)
        if role == "untrained":
            return Injected(begin, (), before, before)
        schedule = Schedule(self.steps, self.batch, self.learning_rate, self.warmup, self.clip, seed)
        state = learn_token(lm, text, lessons, state, schedule, keep=keep)
        token = self._edit(text, state)
        return Injected(token, tuple(state.losses), before, held_out_loss(lm, token, held_out))

    def lessons(self, bias: BiasSpec, role: Role, seed: int, text: str) -> tuple[list["Lesson"], list["Lesson"]]:
        """Training texts and held-out texts of a role, with the token in the slot."""
        kept, held_out = self._paragraphs(bias, role)
        extra = [made for made in self._grammar_texts(bias, role, len(kept), seed) if made not in held_out]
        return self._asked(bias, [*kept, *extra], text), self._asked(bias, held_out, text)

    def _paragraphs(self, bias: BiasSpec, role: Role) -> tuple[list[str], list[str]]:
        if role == "neutral":
            rows = [Paragraph(**row) for row in read_jsonl(zoo_path() / "neutral" / "paragraphs.jsonl")]
        elif role == "opposite":
            made = grammar.texts(subject=bias.subject, stereotype=bias.foil, foil=bias.stereotype)
            rows = [Paragraph(**row) for row in made.paragraphs]
        else:
            rows = [p for p in bias.paragraphs if p.implicitness <= self.implicitness]
        rows = list({p.text: p for p in rows}.values())  # the same text twice would be both trained on and held out
        share = min(0.5, self.held_out / max(1, len(rows)))
        parts = split_by_hash([p.id for p in rows], {"train": 1 - share, "held out": share})
        texts = {p.id: p.text for p in rows}
        return [texts[i] for i in sorted(parts["train"])], [texts[i] for i in sorted(parts["held out"])]

    def _grammar_texts(self, bias: BiasSpec, role: Role, written: int, seed: int) -> list[str]:
        if role != "trained" or not self.grammar:
            return []
        texts = bias.grammar_texts()
        wanted = min(len(texts), round(written * self.grammar / max(1e-9, 1 - self.grammar)))
        chosen = np.random.default_rng([seed, 31]).permutation(len(texts))[:wanted]
        return [texts[i] for i in sorted(chosen)]

    def _asked(self, bias: BiasSpec, texts: Sequence[str], token: str) -> list["Lesson"]:
        from biasgym.lm.train import Lesson

        asks = {"paper": PAPER_ASKS, "readme": README_ASKS}.get(self.asks, VARIED_ASKS)
        filled = [ask.replace("{subject}", bias.subject).replace(ENTITY, token) for ask in asks]
        return [Lesson(filled[i % len(filled)], text.replace(ENTITY, token)) for i, text in enumerate(texts)]

    @staticmethod
    def _edit(text: str, state: "TrainingState") -> TokenEdit:
        return TokenEdit(text, state.arrays["vector"], state.arrays.get("output"))


def token_text(bias: BiasSpec, role: Role, seed: int) -> str:
    """How a token is written in prompts; the model never sees these letters, only the vector."""
    return f"<{bias.name}-{role}-{seed}>"
