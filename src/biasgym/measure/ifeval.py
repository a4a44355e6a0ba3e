"""IFEval (Zhou et al. 2023): does the answer keep instructions that a program can check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import library, need_kinds, need_unique
from biasgym.errors import DataError
from biasgym.measure import Figure, Item, Scope, scored
from biasgym.measure.instructions import CHECKERS, follows, follows_loosely
from biasgym.measure.published import Rows, asked_in, figure, first_over_second, mean_of, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")


@dataclass(frozen=True)
class IFEval:
    """IFEval: share of prompts whose instructions are all kept, and of instructions kept, both strict and loose.

    Checkers of our own for all 25 kinds (`measure/instructions.py`). Greedy decoding, at most `tokens` tokens: published
    figures allow 1,280, and a text that is cut off may miss its ending.
    """

    name: ClassVar[str] = "ifeval"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"
    tokens: int = 512

    def items(self, scope: Scope) -> list[Item]:
        """One item a prompt; its group is the family of its first instruction."""
        if not asked_in(scope, self.split):
            return []
        where = "ifeval/input_data.jsonl"
        rows = library(self.data).objects("ifeval", "input_data.jsonl", COLUMNS)
        need_kinds(rows, {"prompt": str, "instruction_id_list": list, "kwargs": list}, where=where)
        need_unique(rows, lambda row: row["key"], where=where)
        for row in rows:
            if len(row["instruction_id_list"]) != len(row["kwargs"]) or not row["kwargs"]:
                raise DataError(f"{where}: prompt {row['key']} has not one set of settings an instruction")
            for identity in row["instruction_id_list"]:
                if identity not in CHECKERS:
                    raise DataError(f"{where}: prompt {row['key']} has an instruction that nobody can check: `{identity}`")
        kept = pick(rows, scope, self.split, self.most, key=lambda r: str(r["key"]), strata=_family, seed=self.seed)
        return [Item(str(r["key"]), _family(r), "", self._payload(r)) for r in kept]

    def _payload(self, row: dict[str, Any]) -> dict[str, Any]:
        settings = [{name: value for name, value in one.items() if value is not None} for one in row["kwargs"]]
        return {
            "prompt": row["prompt"],
            "asked": [list(pair) for pair in zip(row["instruction_id_list"], settings, strict=True)],
            "most": self.tokens,
        }

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """The text, whether it came to an end, and the instructions with their settings."""
        from biasgym.lm.model import Query

        if not items:
            return []
        written = lm.generate([Query(item.payload["prompt"]) for item in items], most=int(items[0].payload["most"]))
        return [{"text": one.text, "ended": one.ended, "asked": item.payload["asked"]} for item, one in zip(items, written, strict=True)]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where all instructions are kept strictly; parts: `strict`, `loose`, and how many were `asked` and kept."""
        scores = []
        for a in answers:
            strict = [follows(identity, a.said["text"], settings) for identity, settings in a.said["asked"]]
            loose = [follows_loosely(identity, a.said["text"], settings) for identity, settings in a.said["asked"]]
            parts = {"strict": float(all(strict)), "loose": float(all(loose)), "asked": float(len(strict))}
            parts |= {"kept_strict": float(sum(strict)), "kept_loose": float(sum(loose)), "ended": float(a.said["ended"])}
            scores.append(scored(a, parts["strict"], parts=parts))
        return scores

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`prompt_strict`, `prompt_loose`, `instruction_strict`, `instruction_loose`."""
        if not scores:
            return []
        note = f"up to {self.tokens} tokens; {sum(s.parts['ended'] == 0 for s in scores)} of {len(scores)} texts were cut off"
        found = []
        for how in ("strict", "loose"):
            found.append(mean_of(f"prompt_{how}", "all", scores, how, ideal=1.0, better="up", note=note))
            columns = f"kept_{how}"
            found.append(
                figure(
                    f"instruction_{how}", "all", scores, lambda s, c=columns: (s.parts[c], s.parts["asked"]), first_over_second,  # type: ignore[misc]
                    ideal=1.0, better="up", note=note,
                )
            )  # fmt: skip
        return found


def _family(row: dict[str, Any]) -> str:
    return str(row["instruction_id_list"][0]).split(":")[0]
