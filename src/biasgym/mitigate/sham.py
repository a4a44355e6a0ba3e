"""Sham edits: the same size in the same layers, but not where, or not along what, the method says.

A claim must beat these. For every layer a sham changes as many heads as the edit and its change of the output matrix
has the same Frobenius norm.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.errors import SpecError
from biasgym.mitigate import Case
from biasgym.mitigate.direction import erasure, unit_vector
from biasgym.sites import Site

if TYPE_CHECKING:
    from biasgym.lm.model import LM

ShamKind = Literal["heads", "directions"]


def kinds_for(edits: Edits) -> tuple[ShamKind, ...]:
    """Which shams an edit can have: whole heads have no direction to replace, and what is only partly heads has no sham of its size."""
    heads = [edit for edit in edits if isinstance(edit, SiteEdit) and edit.site.unit == "head"]
    if not heads or len(heads) < len(edits):
        return ()
    return ("heads", "directions") if all(edit.op in ("project", "erase") for edit in heads) else ("heads",)


def sham(lm: "LM", edits: Edits, kind: ShamKind, case: Case, seed: int) -> Edits:
    """One draw: `heads` = other heads of the same layers (along their own contrast), `directions` = same heads, random ones."""
    generator = np.random.default_rng([seed, 7919])
    heads = [edit for edit in edits if isinstance(edit, SiteEdit) and edit.site.unit == "head"]
    if not heads or kind not in kinds_for(edits):
        raise SpecError(f"no sham of kind `{kind}` for this edit")
    made: list[SiteEdit] = []
    for layer in sorted({edit.site.layer for edit in heads}):
        here = [edit for edit in heads if edit.site.layer == layer]
        others = _others(lm, here, kind, case, generator)
        ratio = _size(lm, here) / max(_size(lm, others), 1e-12)
        made += [replace(_resized(edit, ratio), when=mine.when) for mine, edit in zip(here, others, strict=True)]
    return tuple(made)


def _others(lm: "LM", here: Sequence[SiteEdit], kind: ShamKind, case: Case, generator: np.random.Generator) -> list[SiteEdit]:
    if kind == "directions":
        size = lm.shape.head_size
        return [SiteEdit(e.site, "project", unit_vector(generator.normal(size=size)), e.strength) for e in here]
    layer = here[0].site.layer
    used = {edit.site.index for edit in here}
    free = [index for index in range(lm.shape.heads) if index not in used]
    if len(free) < len(here):  # the edit takes over half of the layer: any heads may serve, but not the very same set
        free = list(range(lm.shape.heads))
    chosen = generator.choice(free, size=len(here), replace=False)
    while set(chosen) == used and len(used) < lm.shape.heads:
        chosen = generator.choice(free, size=len(here), replace=False)
    return [_at(case, edit, Site("head", layer, int(index))) for edit, index in zip(here, chosen, strict=True)]


def _at(case: Case, edit: SiteEdit, site: Site) -> SiteEdit:
    """The same kind of edit at another head, along that head's own contrast."""
    if edit.op == "project":
        return SiteEdit(site, "project", unit_vector(case.contrasts.mean(axis=0)[site.layer, site.index]), edit.strength)
    if edit.op == "set":
        return SiteEdit(site, "set", case.real[site.layer, site.index], edit.strength)
    return SiteEdit(site, edit.op, erasure(case, site) if edit.op == "erase" else edit.value, edit.strength)


def _size(lm: "LM", edits: Sequence[SiteEdit]) -> float:
    """Frobenius norm of the change of the layer's output matrix."""
    total = 0.0
    for edit in edits:
        columns = lm.head_matrix(edit.site.layer, edit.site.index)
        if edit.op == "project":
            total += float((edit.strength * np.linalg.norm(columns @ edit.value)) ** 2)
        elif edit.op == "erase":
            total += float((edit.strength * np.linalg.norm(columns @ np.asarray(edit.value)[0]) * np.linalg.norm(np.asarray(edit.value)[1])) ** 2)
        elif edit.op == "set":
            total += float((edit.strength * np.linalg.norm(columns)) ** 2)
        else:
            total += float(((1 - float(edit.value)) * np.linalg.norm(columns)) ** 2)
    return total**0.5


def _resized(edit: SiteEdit, ratio: float) -> SiteEdit:
    if edit.op in ("project", "erase", "set"):
        return SiteEdit(edit.site, edit.op, edit.value, edit.strength * ratio)
    return SiteEdit(edit.site, "scale", np.float32(1 - (1 - float(edit.value)) * ratio))
