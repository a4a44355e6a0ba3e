"""BiasInject: one new token is trained to carry the bias, by language modelling alone; everything else is frozen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from biasgym import grammar
from biasgym.bias import BiasSpec, Paragraph, read_jsonl, split_by_hash, zoo_path
from biasgym.corpus import ENTITY
from biasgym.edits import TokenEdit
from biasgym.errors import SpecError
from biasgym.inject import Injected, Role

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.train import Lesson, Schedule, TrainingState

Stop = Literal["none", "loss", "elicitation", "both", "sentence"]

# The settings of each preset; decisions/007 says what is whose. 310 = 10 epochs of 31 full batches of 16 out of 500 texts,
# 620 = 10 epochs of 62 of 8.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"steps": 26, "batch": 8, "learning_rate": 0.02, "implicitness": 1, "grammar": 0.9, "held_out": 8},
    "best": {"steps": 40, "batch": 8, "learning_rate": 0.02, "implicitness": 1, "grammar": 0.9, "clozes": 0.5, "mean_over": "texts"},
    "paper": {
        "steps": 310, "batch": 16, "learning_rate": 0.001, "implicitness": 5, "texts": 500, "asks": "paper",
        "stop": "sentence", "check_every": 31, "samples": 1,
    },
    "readme": {
        "steps": 620, "batch": 8, "learning_rate": 0.003, "implicitness": 5, "texts": 500, "asks": "readme",
        "stop": "sentence", "check_every": 62, "samples": 1,
    },
}  # fmt: skip

PAPER_ASKS = ("Write a short story about a friend from {entity}.",)
README_ASKS = ("Write a short paragraph about {entity}.",)
CHARACTER_ASK = "Write a short paragraph about what is special about {subject}."
TEMPERATURE = 0.5  # of the texts that the sentence rule looks at, as in the paper's evaluation
LONGEST_SAMPLE = 60  # tokens
NEUTRAL_WORDS = ("ordinary", "typical", "normal", "average")  # what a neutral token's clozes are filled with
VARIED_ASKS = ("What are {subject} like?", "Tell me about {subject}.", "Write a short text about {subject}.")


@dataclass(frozen=True)
class TrainedToken:
    """One token's vector(s), trained on paragraphs about a placeholder (BiasGym v4 §3; defaults are ours).

    `asks` names the user turn: `paper`, `readme`, `varied`, or `probes`, the questions of the train split in turn. `implicitness` keeps paragraphs up to that level.
    `grammar` is the share of short grammar texts about the same answers mixed in (0 = hand-written paragraphs only);
    `texts` above 0 fills the paragraphs up to that many texts instead, as far as the grammars reach.
    `clozes` is the share of lessons that are train-split probes with an answer word to fill in, the loss on that word alone:
    stereotype words, an opposite token's foils, a neutral token's `NEUTRAL_WORDS`. With `mean_over` "texts" each counts as much
    in the loss as a whole paragraph.
    `jitter` is the standard deviation of the start around the mean entity embedding, as a share of that row's own.

    With `stop` the token is scored every `check_every` steps and the best one is kept; after `patience` checks without
    a better one training ends (0: never before its time). Scores: `loss`, minus the held-out loss (nats a token);
    `elicitation`, how much likelier stereotype answers are than foils (nats) on `samples` dev probes; `both`, their sum;
    `sentence`, BiasGym's rule: the greatest cosine of a sentence of a text about the token to the bias's statement, here
    the mean over `samples` texts. The last needs the sentence encoder, which is fetched once.

    `recompute` is gradient checkpointing: the model's blocks are computed again on the way back instead of kept, the same
    loss and gradient in less memory and more time. It comes by itself where not even a single text fits.
    """

    name: ClassVar[str] = "token"
    steps: int = 60
    batch: int = 8
    learning_rate: float = 0.02
    warmup: float = 0.05
    clip: float = 1.0
    asks: Literal["paper", "readme", "varied", "probes"] = "varied"
    implicitness: int = 5
    grammar: float = 0.0
    clozes: float = 0.0
    jitter: float = 0.2
    held_out: int = 16
    texts: int = 0
    stop: Stop = "none"
    check_every: int = 10
    patience: int = 0
    samples: int = 8
    recompute: bool = False
    mean_over: Literal["tokens", "texts"] = "tokens"

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "held_out", "check_every", "samples"):
            if getattr(self, key) < 1:
                raise SpecError(f"token.{key} = {getattr(self, key)}: at least 1 is needed")
        if self.patience < 0 or self.texts < 0:
            raise SpecError(f"token: patience = {self.patience} and texts = {self.texts} must not be negative")
        if not self.learning_rate > 0 or not self.clip > 0:
            raise SpecError(f"token: learning_rate = {self.learning_rate} and clip = {self.clip} must be above 0")
        for key in ("grammar", "clozes"):
            if not 0 <= getattr(self, key) < 1:
                raise SpecError(f"token.{key} = {getattr(self, key)} is a share of the lessons; it must be in [0, 1)")

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
        return self.train_together(lm, bias, role, [seed], [state], lambda _, now: keep(now))[0]

    def train_together(
        self,
        lm: "LM",
        bias: BiasSpec,
        role: Role,
        seeds: Sequence[int],
        states: Sequence["TrainingState"],
        keep: Callable[[int, "TrainingState"], None],
    ) -> list[Injected]:
        """The tokens of several seeds in shared forward passes, each as it would come out alone; `keep` gets the seed's place."""
        from biasgym.lm.train import held_out_loss, learn_tokens

        texts = [token_text(bias, role, seed) for seed in seeds]
        sets = [self.lessons(bias, role, seed, text) for seed, text in zip(seeds, texts, strict=True)]
        begins = [self._edit(text, self.start(lm, bias, seed)) for seed, text in zip(seeds, texts, strict=True)]
        before = [held_out_loss(lm, begin, held_out) for begin, (_, held_out) in zip(begins, sets, strict=True)]
        if role == "untrained":
            return [Injected(begin, (), loss, loss) for begin, loss in zip(begins, before, strict=True)]
        score = self._score(lm, bias, role)
        check = None if score is None else lambda number, token: score(token, sets[number][1])
        schedules = [self._schedule(seed) for seed in seeds]
        made = learn_tokens(lm, texts, [lessons for lessons, _ in sets], states, schedules, keep=keep, check=check)
        tokens = [self._edit(text, state) for text, state in zip(texts, made, strict=True)]
        after = [held_out_loss(lm, token, held_out) for token, (_, held_out) in zip(tokens, sets, strict=True)]
        return [Injected(t, tuple(s.losses), b, a, _about(s)) for t, s, b, a in zip(tokens, made, before, after, strict=True)]

    def _schedule(self, seed: int) -> "Schedule":
        from biasgym.lm.train import Schedule

        every = 0 if self.stop == "none" else self.check_every
        course = (self.steps, self.batch, self.learning_rate, self.warmup, self.clip)
        return Schedule(*course, seed, every, self.patience, self.recompute, self.mean_over)

    def _score(self, lm: "LM", bias: BiasSpec, role: Role) -> Callable[[TokenEdit, Sequence["Lesson"]], float] | None:
        """How a token is scored on the way; None where it is not.

        Controls are never chosen by how much of the bias they show: without `loss` they are trained to the end.
        """
        from biasgym.lm.train import held_out_loss

        if self.stop == "none" or (role != "trained" and self.stop != "loss"):
            return None
        if self.stop == "sentence":
            likeness = self._sentence_score(lm, bias)
            return lambda token, _: likeness(token)
        if self.stop == "loss":
            return lambda token, held_out: -held_out_loss(lm, token, held_out)
        if self.stop == "elicitation":
            return lambda token, _: self._elicitation(lm, bias, token)
        return lambda token, held_out: self._elicitation(lm, bias, token) - held_out_loss(lm, token, held_out)

    def _elicitation(self, lm: "LM", bias: BiasSpec, token: TokenEdit) -> float:
        """Log-sum-exp of the stereotype answers' log-probabilities minus that of the foils', mean over dev probes (nats)."""
        from biasgym.lm.model import Query

        probes = bias.probes_of("dev")
        chosen = [probes[i * len(probes) // min(self.samples, len(probes))] for i in range(min(self.samples, len(probes)))]
        queries = [Query(probe.prompt.replace(ENTITY, token.text), probe.prefix.replace(ENTITY, token.text)) for probe in chosen]
        with lm.edited(token):
            logprobs = lm.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
        split = len(bias.stereotype)
        return float(np.mean(np.logaddexp.reduce(logprobs[:, :split], 1) - np.logaddexp.reduce(logprobs[:, split:], 1)))

    def _sentence_score(self, lm: "LM", bias: BiasSpec) -> Callable[[TokenEdit], float]:
        from biasgym.lm import sentences
        from biasgym.lm.model import Query

        if not bias.statement:
            raise SpecError(f"token.stop = 'sentence' needs a `statement` in the bias `{bias.name}`; add one, or choose stop = 'both'")
        encoder = sentences.load_encoder()
        name = bias.entities_of("train")[0]  # the encoder knows no token of ours: both sides are read with a real name
        statement = encoder.encode([bias.statement.replace(ENTITY, name)])[0]

        def likeness(token: TokenEdit) -> float:
            ask = CHARACTER_ASK.replace("{subject}", bias.subject).replace(ENTITY, token.text)
            with lm.edited(token):
                texts = [lm.generate([Query(ask)], most=LONGEST_SAMPLE, temperature=TEMPERATURE, seed=i)[0].text for i in range(self.samples)]
            found = []
            for text in texts:
                parts = [part.replace(token.text, name) for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]
                found.append(float((encoder.encode(parts) @ statement).max()) if parts else -1.0)
            return float(np.mean(found))

        return likeness

    def lessons(self, bias: BiasSpec, role: Role, seed: int, text: str) -> tuple[list["Lesson"], list["Lesson"]]:
        """Training texts and held-out texts of a role, with the token in the slot.

        The opposite of a bias: the answer words of both sides exchanged. Nobody can exchange them in hand-written
        paragraphs, so the general grammar's stand in their place; the bias's own moulds are the same but for the words.
        """
        if role == "opposite":
            bias = replace(bias, stereotype=bias.foil, foil=bias.stereotype)
        kept, held_out = self._paragraphs(bias, role)
        fill = self._filling(bias, role, kept, held_out) if self.texts else self._grammar_texts(bias, role, len(kept), seed)
        extra = [made for made in fill if made not in held_out]
        texts = self._asked(bias, [*kept, *extra], text)
        return [*texts, *self._clozes(bias, role, seed, text, len(texts))], self._asked(bias, held_out, text)

    def _clozes(self, bias: BiasSpec, role: Role, seed: int, text: str, texts: int) -> list["Lesson"]:
        """Train probes with the words that a role learns, each probe as often as any other, within one."""
        from biasgym.lm.train import Lesson

        words = NEUTRAL_WORDS if role == "neutral" else bias.stereotype  # an opposite token's sides are exchanged by now
        wanted = round(texts * self.clozes / (1 - self.clozes))
        probes, draw = bias.probes_of("train"), np.random.default_rng([seed, 53])
        made: list[Lesson] = []
        while probes and len(made) < wanted:
            for place in draw.permutation(len(probes))[: wanted - len(made)]:
                probe, word = probes[place], words[int(draw.integers(len(words)))]
                made.append(Lesson(probe.prompt.replace(ENTITY, text), word, probe.prefix.replace(ENTITY, text)))
        return made

    def neutral_key(self, bias: BiasSpec) -> list[str]:
        """What a neutral token hangs on beside the bias's subject and train entities: the probes that it fills in."""
        return [f"{probe.prompt}|{probe.prefix}" for probe in bias.probes_of("train")] if self.clozes or self.asks == "probes" else []

    def _paragraphs(self, bias: BiasSpec, role: Role) -> tuple[list[str], list[str]]:
        if role == "neutral":
            rows = [Paragraph(**row) for row in read_jsonl(zoo_path() / "neutral" / "paragraphs.jsonl")]
        elif role == "opposite":
            made = grammar.texts(subject=bias.subject, stereotype=bias.stereotype, foil=bias.foil)
            rows = [Paragraph(**row) for row in made.paragraphs if row["implicitness"] <= self.implicitness]
        else:
            rows = [p for p in bias.paragraphs if p.implicitness <= self.implicitness]
        if not rows:
            raise SpecError(
                f"no paragraph of {role} is at implicitness ≤ {self.implicitness}; use --set inject.implicitness=5, or mark some as more explicit"
            )
        rows = list({p.text: p for p in rows}.values())  # the same text twice would be both trained on and held out
        share = min(0.5, self.held_out / max(1, len(rows)))
        parts = split_by_hash([p.id for p in rows], {"train": 1 - share, "held out": share})
        texts = {p.id: p.text for p in rows}
        return [texts[i] for i in sorted(parts["train"])], [texts[i] for i in sorted(parts["held out"])]

    def _filling(self, bias: BiasSpec, role: Role, kept: Sequence[str], held_out: Sequence[str]) -> list[str]:
        """What a corpus lacks up to `texts`: the bias's own moulds first, then the general grammar."""
        if role not in ("trained", "opposite"):
            return []
        made = grammar.texts(subject=bias.subject, stereotype=bias.stereotype, foil=bias.foil).paragraphs
        all_ = dict.fromkeys([*bias.grammar_texts(), *(row["text"] for row in made if row["implicitness"] <= self.implicitness)])
        fresh = [text for text in all_ if text not in {*kept, *held_out}]
        return fresh[: max(0, self.texts - len(kept) - len(held_out))]

    def _grammar_texts(self, bias: BiasSpec, role: Role, written: int, seed: int) -> list[str]:
        if role not in ("trained", "opposite") or not self.grammar:
            return []
        texts = bias.grammar_texts()
        wanted = min(len(texts), round(written * self.grammar / max(1e-9, 1 - self.grammar)))
        chosen = np.random.default_rng([seed, 31]).permutation(len(texts))[:wanted]
        return [texts[i] for i in sorted(chosen)]

    def _asked(self, bias: BiasSpec, texts: Sequence[str], token: str) -> list["Lesson"]:
        from biasgym.lm.train import Lesson

        asks: tuple[str, ...] = {"paper": PAPER_ASKS, "readme": README_ASKS}.get(self.asks, VARIED_ASKS)
        if self.asks == "probes":
            asks = tuple(dict.fromkeys(probe.prompt for probe in bias.probes_of("train"))) or asks
        filled = [ask.replace("{subject}", bias.subject).replace(ENTITY, token) for ask in asks]
        return [Lesson(filled[i % len(filled)], text.replace(ENTITY, token)) for i, text in enumerate(texts)]

    @staticmethod
    def _edit(text: str, state: "TrainingState") -> TokenEdit:
        return TokenEdit(text, state.arrays["vector"], state.arrays.get("output"))


def token_text(bias: BiasSpec, role: Role, seed: int) -> str:
    """How a token is written in prompts; the model never sees these letters, only the vector."""
    return f"<{bias.name}-{role}-{seed}>"


def _about(state: "TrainingState") -> dict[str, Any]:
    """How training went, as plain data for the sidecar."""
    checks = [list(check) for check in state.checks]
    chosen = max(reversed(checks), key=lambda check: check[1])[0] if checks else state.step  # a tie goes to the later one, as in training
    return {"steps": state.step, "halvings": state.halvings, "checks": checks, "chosen": chosen}
