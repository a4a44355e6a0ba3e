"""Everything that can be done to a model, as data: frozen classes with a neutral setting that changes nothing.

`lm/apply.py` puts them on and takes them off, `lm/fold.py` turns them into weights; nothing else touches a model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, get_args

import numpy as np

from biasgym.errors import SpecError
from biasgym.sites import Site

Op = Literal["scale", "add", "set", "project", "erase"]


@dataclass(frozen=True)
class TokenEdit:
    """A token that the model did not have: `text` is read as one token with this vector, and written with `output`.

    `vector` and `output` have shape [hidden]. `output` is None where input and output embeddings are tied: then the
    vector serves both. The token swallows the spaces before it, as ` Spain` does in a byte-level vocabulary.
    """

    text: str
    vector: np.ndarray
    output: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.text.strip() or self.text != self.text.strip():
            raise SpecError(f"the token's text {self.text!r} is empty or has spaces around it")
        for vector in (self.vector, self.output):
            if vector is not None and (vector.ndim != 1 or not np.isfinite(vector).all()):
                raise SpecError(f"the vector of {self.text!r} is not one row of finite numbers")


@dataclass(frozen=True)
class PromptEdit:
    """Words around the user's prompt, and turns that follow it. `template` holds `{prompt}`; neutral is `{prompt}` alone.

    `then` are user turns that come after the model's own answers, all in one conversation: the model answers `template`
    greedily with at most `most` tokens, then the first of `then` is put to it, and so on; what is scored or written is
    the answer to the last turn. They may hold `{prompt}` and `{answer}` (the answer just given). `opened` says whether
    the answers before the last begin with the query's prefix, too. Run-time only.
    """

    template: str = "{prompt}"
    then: tuple[str, ...] = ()
    opened: bool = False
    most: int = 48

    def __post_init__(self) -> None:
        if self.template.count("{prompt}") != 1:
            raise SpecError(f"a prompt template needs exactly one {{prompt}}, found {self.template!r}")
        if not all(turn.strip() for turn in self.then):
            raise SpecError("a turn that follows the prompt is empty")
        if self.most < 1:
            raise SpecError(f"most = {self.most}: an answer between turns needs at least one token")


@dataclass(frozen=True)
class SiteEdit:
    """A change of what one place writes, at every position.

    With y the place's output and v the value: `scale` y·v (neutral 1), `add` y + strength·v (neutral 0), `set`
    y + strength·(v − y) (neutral 0), `project` y − strength·v(v·y) for v of unit length, or one row each for several
    orthonormal directions (neutral 0), `erase` y − strength·a(b·y) for two rows a and b with b·a = 1: b recognises
    what is there, a is what is taken out (neutral 0; strength 1 takes a out whole). `rows`, when given, names the batch
    rows it applies to; such an edit is for experiments within one batch. `when`, when given, holds sequences of token
    ids: the edit acts in each row from the last token of the first of them on, and nowhere before (`lm/conditions.py`
    finds the ids of names). Neither can be folded.
    """

    site: Site
    op: Op
    value: np.ndarray | np.float32
    strength: float = 1.0
    rows: tuple[int, ...] | None = None
    when: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.op not in get_args(Op):
            raise SpecError(f"unknown edit `{self.op}`; there is {', '.join(get_args(Op))}")
        if not np.isfinite(self.value).all() or not np.isfinite(self.strength):
            raise SpecError(f"the edit of {self.site} has values that are not finite numbers")
        if self.when is not None and not all(self.when):
            raise SpecError(f"the edit of {self.site} waits for a sequence of no tokens; name an entity")
        if self.op == "project":
            rows = np.atleast_2d(np.asarray(self.value, dtype=np.float64))
            if not np.allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-4):
                raise SpecError(f"the directions projected out at {self.site} are not orthonormal")
        if self.op == "erase" and not _pairs(np.asarray(self.value)):
            raise SpecError(f"`erase` at {self.site} needs two rows a and b with b·a = 1")


def _pairs(value: np.ndarray) -> bool:
    """Whether a value is two rows whose product is 1."""
    return value.ndim == 2 and len(value) == 2 and bool(np.isclose(value[0] @ value[1], 1, atol=1e-3))


@dataclass(frozen=True)
class WeightEdit:
    """A change of one weight matrix: `parameter` (name in the state dict) gains left @ right, or is replaced by `dense`.

    `left` [out, r] and `right` [r, in] in the orientation in which the parameter is stored; neutral is r = 0 or zeros.
    """

    parameter: str
    left: np.ndarray | None = None
    right: np.ndarray | None = None
    dense: np.ndarray | None = None

    def __post_init__(self) -> None:
        given = tuple(part is not None for part in (self.left, self.right, self.dense))
        if given not in ((True, True, False), (False, False, True)):
            raise SpecError(f"the edit of `{self.parameter}` needs either left and right, or dense")
        if self.left is not None and self.right is not None and self.left.shape[1:] != self.right.shape[:1]:
            raise SpecError(f"left {self.left.shape} and right {self.right.shape} of the edit of `{self.parameter}` do not fit")
        if not all(np.isfinite(part).all() for part in (self.left, self.right, self.dense) if part is not None):
            raise SpecError(f"the edit of `{self.parameter}` has values that are not finite numbers")


Rule = Literal["shift", "decay"]


@dataclass(frozen=True)
class Twin:
    """A copy of the model that reads the same tokens beside it.

    `prefix` stands before the text that is continued: in a chat at the beginning of the model's answer, in a plain text
    (or without a chat template) at its very beginning. `edits` are weights of its own, put on over what the model wears.
    `model` names another model with the same tokenizer, by a folder or a name; empty is the model itself.
    """

    prefix: str = ""
    edits: tuple[WeightEdit, ...] = ()
    model: str = ""


@dataclass(frozen=True)
class ContrastEdit:
    """Next-token logits z combined with those of twins that read along, at every position; all go on with the same token.

    `shift`: z + strength·(z⁺ − z⁻) for twins (plus, minus); with one twin it is minus and the model itself is plus.
    `decay`: with p and q_j the next-token probabilities of the model and of its twins, gap = p − max_j q_j; p is
    multiplied by 1 where gap ≥ 0, else by max(floor, exp(strength·gap)), and renormalised. Neutral at strength 0.
    Run-time only: no single set of weights says this.
    """

    rule: Rule
    twins: tuple[Twin, ...]
    strength: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise SpecError(f"unknown contrast `{self.rule}`; there is {', '.join(get_args(Rule))}")
        if not self.twins or (self.rule == "shift" and len(self.twins) > 2):
            raise SpecError(f"a `{self.rule}` contrast of {len(self.twins)} twins; shift needs one or two, decay at least one")
        if not np.isfinite(self.strength) or (self.rule == "decay" and self.strength < 0):
            raise SpecError(f"a `{self.rule}` contrast of strength {self.strength}; a finite number is needed, for decay at least 0")
        if not 0 <= self.floor <= 1:
            raise SpecError(f"floor = {self.floor}: a factor from 0 to 1 is needed")


Edit = TokenEdit | PromptEdit | SiteEdit | WeightEdit | ContrastEdit
Edits = tuple[Edit, ...]
EDIT_KINDS: tuple[type, ...] = get_args(Edit)


def worn_digest(edits: Sequence[Edit]) -> str:
    """A hash of everything that edits hold, in their order: equal digests mean the same change of the model."""
    digest = hashlib.sha256()
    for edit in edits:
        for key, value in sorted(vars(edit).items()):
            digest.update(key.encode() + bytes_of(value))
    return digest.hexdigest()


def bytes_of(value: Any) -> bytes:
    """All of a value: an array's numbers (its `repr` leaves most of them out), also inside twins and tuples."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tobytes()
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__.encode() + b"".join(key.encode() + bytes_of(part) for key, part in sorted(vars(value).items()))
    if isinstance(value, tuple) and any(is_dataclass(part) or isinstance(part, np.ndarray) for part in value):
        return b"(" + b",".join(map(bytes_of, value)) + b")"
    return repr(value).encode()
