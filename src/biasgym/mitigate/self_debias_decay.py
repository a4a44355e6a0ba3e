"""Words that the model would find likelier if the text were said to be biased are made less likely."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import ContrastEdit, Edits, Twin
from biasgym.errors import SpecError, unknown
from biasgym.mitigate import Case
from biasgym.mitigate.prompting import bias_name
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

ATTRIBUTES = {
    "insult": "insulting, hurtful or scornful language about a person or a group",
    "political": "strong political leanings to one side, left or right",
    "social": "prejudice against people because of the group they belong to",
    "bias": "the stereotype of {bias}",
}


@dataclass(frozen=True)
class SelfDebiasDecay:
    """Self-debiasing by decay: beside the model run copies that are told that the text is biased; what they prefer decays.

    Schick et al. 2021 (arXiv 2103.00453 §4), as used for insults and political bias by arXiv 2311.10266. With p the
    probability of a token and q the largest one under the copies, p is multiplied by 1 where p ≥ q, else by
    max(floor, exp(−strength·(q − p))), and renormalised; every copy goes on with the same token. λ = `strength` = 50 and
    `floor` = 0.01 are the authors'; floor 0 is the rule as printed. `attributes` are names, joined by `+`, one copy each.
    What is scored is this distribution at every position of a text or an answer, so bits per byte, association and
    generation all are about the same model. Deviations: the prefix is worded by us; in a chat it stands at the beginning
    of the model's answer, since that is the text being continued (the method knows no chats). Neutral at strength 0.
    Run-time only, at the price of one more pass a copy.
    """

    name: ClassVar[str] = "self-debias-decay"
    reads: ClassVar[Unit | None] = None
    strength: float = field(default=50.0, metadata={"search": (10.0, 25.0, 50.0, 100.0), "neutral": 0.0})
    floor: float = field(default=0.01, metadata={"search": (0.001, 0.01, 0.1)})
    attributes: str = field(default="social", metadata={"search": ("bias", "social")})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One contrast with a copy for every attribute."""
        twins = tuple(Twin(prefix_of(name, case)) for name in self.attributes.split("+"))
        return (ContrastEdit("decay", twins, self.strength, self.floor),)


def prefix_of(attribute: str, case: Case) -> str:
    """What a copy is told of the text that it continues."""
    return f"The text below is full of {described(attribute, case)}:\n\n"


def described(attribute: str, case: Case) -> str:
    """An attribute in words."""
    if attribute.strip() not in ATTRIBUTES:
        raise SpecError(unknown("attribute", attribute.strip(), ATTRIBUTES))
    return ATTRIBUTES[attribute.strip()].replace("{bias}", bias_name(case))
