"""A run's edits worn at will: one prompt answered at any strength, and what one head does to one probe."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from biasgym.bias import load_bias
from biasgym.corpus import ENTITY
from biasgym.edits import Edit, Edits, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import SpecError
from biasgym.measure import Item, Scope
from biasgym.measure.association import Association, lean
from biasgym.records import MeasureSpec, RunRecord
from biasgym.run import Session, load_edits
from biasgym.sites import Site
from biasgym.store import read_record, read_token

STRONGEST = 4.0
LONGEST = 1000  # tokens
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)

Head = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A prompt, and what the model wears when it answers: an edit (the first one of the run if not named) at a strength.

    `strength` multiplies what was fitted: 0 is the base model, 1 the edit as it is measured in the record. `off` are heads
    (layer, head) whose part of the edit is left out. With `token` the run's token is on, and `{entity}` in the prompt is it.
    `most` is in tokens; the answer is greedy.
    """

    prompt: str
    edit: str | None = None
    strength: float = 1.0
    off: tuple[Head, ...] = ()
    token: bool = False
    most: int = 60

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise SpecError("the prompt is empty; ask something")
        if not (math.isfinite(self.strength) and 0 <= self.strength <= STRONGEST):
            raise SpecError(f"a strength from 0 (off) to {STRONGEST:g} is needed, found {self.strength:g}; 1 is the edit as it was measured")
        if not 1 <= self.most <= LONGEST:
            raise SpecError(f"an answer of 1 to {LONGEST} tokens can be asked for, found {self.most}")
        if ENTITY in self.prompt and not self.token:
            raise SpecError(f"`{ENTITY}` stands for the run's token: put the token on (--token), or write a name instead")


def at_strength(edits: Sequence[Edit], strength: float) -> Edits:
    """Edits with their strength multiplied: 0 gives none, 1 the same ones; a replaced matrix has no strengths between.

    A `scale` goes from 1 towards its value and beyond, all other site edits have a strength of their own, and the low-rank
    change of a weight is multiplied.
    """
    if strength == 0:
        return ()
    if strength == 1:
        return tuple(edits)
    return tuple(_multiplied(edit, strength) for edit in edits)


def _multiplied(edit: Edit, strength: float) -> Edit:
    if isinstance(edit, SiteEdit):
        if edit.op == "scale":
            return replace(edit, value=np.asarray(1 + (edit.value - 1) * strength, dtype=np.float32)[()])
        return replace(edit, strength=edit.strength * strength)
    if isinstance(edit, WeightEdit) and edit.left is not None:
        return replace(edit, left=(edit.left * strength).astype(edit.left.dtype))
    raise SpecError(f"a {type(edit).__name__} without a low-rank form is on or off; choose strength 0 or 1")


def heads_of(edits: Sequence[Edit]) -> list[Head]:
    """The heads (layer, head) that edits change, in order."""
    return sorted({(edit.site.layer, edit.site.index) for edit in edits if isinstance(edit, SiteEdit) and edit.site.unit == "head"})


def worn_for(folder: Path, question: Question) -> Edits:
    """What the model wears for a question, token first."""
    fitted: Edits = () if question.strength == 0 and question.edit is None else load_edits(folder, question.edit)
    there = heads_of(fitted)
    for layer, head in question.off if fitted else ():
        if (layer, head) not in there:
            raise SpecError(f"the edit does not change head {head} of layer {layer}; it changes {heads_in_words(there)}")
    kept = [edit for edit in fitted if not (isinstance(edit, SiteEdit) and set(heads_of([edit])) & set(question.off))]
    token: Edits = (read_token(folder / "token.safetensors"),) if question.token else ()
    return (*token, *at_strength(kept, question.strength))


def heads_in_words(heads: Sequence[Head]) -> str:
    """Heads as `layer:head`."""
    return ", ".join(f"{layer}:{head}" for layer, head in heads) or "no heads"


def heads_from(words: Sequence[str]) -> tuple[Head, ...]:
    """Heads from `layer:head`; SpecError for anything else."""
    found = []
    for word in words:
        layer, _, head = word.partition(":")
        if not (layer.isdecimal() and head.isdecimal()):
            raise SpecError(f"`{word}` is no head; write LAYER:HEAD, for example 12:3")
        found.append((int(layer), int(head)))
    return tuple(found)


def ask(session: Session, folder: Path, question: Question) -> Iterator[str]:
    """The answer while it is written: its text so far, again and again; the last one is the answer.

    What the command line prints and the web app streams is this. Run it to its end, or close it: the edits come off then.
    """
    from biasgym.lm.model import Query

    record, worn = read_record(folder), worn_for(folder, question)
    prompt = question.prompt
    for edit in worn:
        if isinstance(edit, TokenEdit):
            prompt = prompt.replace(ENTITY, edit.text)
    lm = session.model(record.spec["model"], record.spec["dtype"])
    with lm.edited(*worn):
        yield from lm.stream(Query(prompt), most=question.most)


# -------------------------------------------------------------------- one head


@dataclass(frozen=True)
class HeadSeen:
    """What is known so far of one head on one probe: `leans` are (scale of its output, association in nats) pairs.

    `as_is` and `without` are what the model writes to a prompt with the head as it is and with its output set to zero.
    """

    leans: tuple[tuple[float, float], ...] = ()
    as_is: str = ""
    without: str = ""


def probes_of(record: RunRecord, name: str | None = None) -> list[Item]:
    """The run's test probes about a name; about nobody in particular (`{entity}` kept) where none is given."""
    scope = Scope(load_bias(record.spec["bias"]), "test", (name or ENTITY,), (), None, MeasureSpec(probes=10**6))
    return Association().items(scope)


def head_effect(session: Session, folder: Path, head: Head, *, probe: int, name: str | None, prompt: str = "", most: int = 40) -> Iterator[HeadSeen]:
    """Re-run one test probe with a head's output scaled, and one prompt with and without the head; nothing else is worn.

    `name` None puts the run's token on and asks about it. Association: nats, positive towards the stereotype.
    """
    from biasgym.lm.model import Query

    record = read_record(folder)
    lm = session.model(record.spec["model"], record.spec["dtype"])
    layer, index = head
    if not (0 <= layer < lm.shape.layers and 0 <= index < lm.shape.heads):
        raise SpecError(f"no head {index} in layer {layer}: this model has {lm.shape.layers} layers of {lm.shape.heads} heads, counted from 0")
    token: Edits = (read_token(folder / "token.safetensors"),) if name is None else ()
    who = name or next(edit.text for edit in token if isinstance(edit, TokenEdit))
    items = probes_of(record, who)
    if not 0 <= probe < len(items):
        raise SpecError(f"there are {len(items)} test probes, counted from 0; {probe} was asked for")
    seen = HeadSeen()
    for scale in SCALES:
        with lm.edited(*token, _scaled(head, scale)):
            value = lean(Association().ask(lm, [items[probe]])[0])
        seen = replace(seen, leans=(*seen.leans, (scale, value)))
        yield seen
    if not prompt.strip():
        return
    query = Query(prompt.replace(ENTITY, who))
    with lm.edited(*token):
        for text in lm.stream(query, most=most):
            seen = replace(seen, as_is=text)
            yield seen
    with lm.edited(*token, _scaled(head, 0.0)):
        for text in lm.stream(query, most=most):
            seen = replace(seen, without=text)
            yield seen


def _scaled(head: Head, scale: float) -> SiteEdit:
    return SiteEdit(Site("head", *head), "scale", np.float32(scale))
