"""Harmful words are made unlikely by gradient ascent on those words alone."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.bias import read_jsonl, zoo_path
from biasgym.edits import Edits
from biasgym.errors import SpecError, unknown
from biasgym.forget import Marked, forget_sets, halves, hatecheck, lexicon_of, reddit_women, word_spans
from biasgym.mitigate import Case
from biasgym.mitigate.texts import evenly, groups, sentences
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.unlearn import Unlearnt

SOURCES = ("women", "redditbias", "hatecheck", "bias")
HELD_OUT = 96  # texts on which training is stopped
MARKERS = ("given", "lexicon", "model")


@dataclass(frozen=True)
class TransferUnlearning:
    """Gradient ascent on the marked harmful words of hateful sentences, in the hope that other biases fall, too.

    Transfer unlearning (arXiv 2407.16951): the loss of marked words given what stands before them is raised, all other
    words are left out; training stops when held-out marked words cost `gain` nats more or neutral text `budget` nats more
    (ascent has no end of its own). `source`: `women` is RedditBias on women and HateCheck on women, read from the data
    folder, a third of the templates held out; `bias` is the bias's own sentences with their stereotype words marked.
    `marker`: `given` marks, a `lexicon` of the words marked in the training half, or the `model` itself as annotator.
    `whole_sentence` is the paper's baseline. Deviations: the paper's forget set (dynamically generated hate) and its GPT-4
    marks are not at hand; low-rank changes instead of all weights. Neutral at strength 0. Folds.
    """

    name: ClassVar[str] = "transfer-unlearning"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int | str]] = {"steps": 3, "texts": 12, "batch": 4, "source": "bias"}
    strength: float = field(default=1.0, metadata={"search": (0.25, 0.5, 0.75, 1.0), "neutral": 0.0})
    source: str = "women"
    marker: str = "given"
    whole_sentence: bool = False
    gain: float = 1.0
    budget: float = 0.1
    steps: int = 60
    learning_rate: float = 5e-4
    rank: int = 4
    batch: int = 16
    texts: int = 400

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One low-rank change a matrix."""
        from biasgym.lm.finetune import scaled

        return scaled(self.unlearnt(lm, case).edits, self.strength) if self.strength else ()

    def unlearnt(self, lm: "LM", case: Case) -> "Unlearnt":
        """The changes at full strength, with how far losses rose and why training stopped."""
        from biasgym.lm.finetune import Course
        from biasgym.lm.unlearn import unlearn

        if self.marker not in MARKERS:
            raise SpecError(unknown("marker", self.marker, MARKERS))
        train, held_out = halves(evenly(self.forget_set(case), self.texts))
        held_out = evenly(held_out, HELD_OUT)
        tokens = case.tokens if self.source == "bias" else ()
        course = Course(self.steps, self.batch, self.learning_rate, self.rank)
        neutral = evenly([row["text"] for row in read_jsonl(zoo_path() / "neutral" / "prose.jsonl") if row["split"] == "dev"], 16)

        def make() -> "Unlearnt":
            with lm.edited(*tokens):
                marked = self._marked(lm, train)
                return unlearn(lm, marked, held_out, neutral, course, gain=self.gain, budget=self.budget, whole=self.whole_sentence)

        rows = tuple((row.text, row.spans) for row in (*train, *held_out))
        found: Unlearnt = lm.remembered(make, "unlearnt", rows, course, self.gain, self.budget, self.whole_sentence, self.marker, tokens)
        return found

    def forget_set(self, case: Case) -> list[Marked]:
        """The texts to be forgotten, with their given marks."""
        if self.source not in SOURCES:
            raise SpecError(unknown("source", self.source, SOURCES))
        if self.source == "bias":
            return own_sentences(case, self.name, self.texts)
        sets = forget_sets(case.data)
        reddit = reddit_women(sets) if self.source in ("women", "redditbias") else []
        return reddit + (hatecheck(sets, "women") if self.source in ("women", "hatecheck") else [])

    def _marked(self, lm: "LM", rows: list[Marked]) -> list[Marked]:
        from biasgym.lm.unlearn import marked_by_lexicon, marked_by_model

        found = {"given": lambda: rows, "lexicon": lambda: marked_by_lexicon(rows, lexicon_of(rows)), "model": lambda: marked_by_model(lm, rows)}
        marked = found[self.marker]()
        if not marked:
            raise SpecError(f"the marker `{self.marker}` marked no word in {len(rows)} texts; use `given`")
        return marked


def own_sentences(case: Case, method: str, most: int) -> list[Marked]:
    """The bias's own sentences about the group that it is about, its stereotype words marked."""
    bias = case.known_bias(method)
    made = sentences(bias, groups(case, method)[0], ("stereotype",), most, 0)
    marked = [Marked(one.text, word_spans(one.text, bias.stereotype), one.name, one.template) for one in made]
    return [row for row in marked if row.spans]
