"""Prompts in several turns: what prompt edits make of a query, and the answers that the model gives on the way."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from biasgym.edits import PromptEdit
from biasgym.errors import SpecError

Say = Callable[[Sequence[tuple[tuple[str, ...], str]], int], list[str]]


class Asked(Protocol):
    """A query: the user's prompt and the beginning of the answer."""

    @property
    def prompt(self) -> str:
        """The user's turn."""
        ...

    @property
    def prefix(self) -> str:
        """The beginning of the answer."""
        ...


@dataclass(frozen=True)
class Dialogue:
    """The prompt edits that are on. Answers between turns are remembered as long as the same edits are on."""

    edits: tuple[PromptEdit, ...] = ()
    said: dict[tuple[tuple[str, ...], str], str] = field(default_factory=dict, compare=False, repr=False)

    def with_edits(self, more: Sequence[PromptEdit]) -> "Dialogue":
        """These edits and more. Nothing said before is kept: whatever else was put on may have changed what is said."""
        edits = (*self.edits, *more)
        if sum(bool(edit.then) for edit in edits) > 1:
            raise SpecError("two prompt edits with turns of their own cannot be worn at once; take one off")
        return Dialogue(edits)

    def turns(self, query: Asked, say: Say) -> list[str]:
        """User turn, answer, user turn …, a user turn last."""
        self.prepare([query], say)
        turns = [self._first(query)]
        edit = self._longer()
        for follow in edit.then if edit else ():
            answer = self.said[self._key(query, turns)]
            turns += [answer, _filled(follow, query.prompt, answer)]
        return turns

    def prepare(self, queries: Sequence[Asked], say: Say) -> None:
        """Have the model say whatever is still missing between turns, all queries' answers of a turn at once."""
        edit = self._longer()
        if edit is None:
            return
        open_turns = [[self._first(query)] for query in queries]
        for follow in edit.then:
            keys = [self._key(query, turns) for query, turns in zip(queries, open_turns, strict=True)]
            missing = [key for key in dict.fromkeys(keys) if key not in self.said]
            if missing:
                self.said.update(zip(missing, say(missing, edit.most), strict=True))
            for query, turns, key in zip(queries, open_turns, keys, strict=True):
                turns += [self.said[key], _filled(follow, query.prompt, self.said[key])]

    def _longer(self) -> PromptEdit | None:
        return next((edit for edit in self.edits if edit.then), None)

    def _first(self, query: Asked) -> str:
        prompt = query.prompt
        for edit in reversed(self.edits):
            prompt = edit.template.replace("{prompt}", prompt)
        return prompt

    def _key(self, query: Asked, turns: Sequence[str]) -> tuple[tuple[str, ...], str]:
        edit = self._longer()
        return tuple(turns), query.prefix if edit and edit.opened else ""


def _filled(turn: str, prompt: str, answer: str) -> str:
    """The slots of a turn, filled at once, so that a slot inside a prompt stays what it is."""
    return re.sub(r"\{(prompt|answer)\}", lambda slot: prompt if slot[1] == "prompt" else answer, turn)
