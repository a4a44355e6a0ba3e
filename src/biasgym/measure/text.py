"""Bits per byte of a text file of the user's own: what an edit costs on the prose that matters to them."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import data_folder, unpacked
from biasgym.errors import BiasGymError, DataError
from biasgym.measure import Figure, Item, Scope
from biasgym.measure.published import Rows, asked_in, pick
from biasgym.measure.wikitext import bits_of, bits_per_byte, read_texts
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

LONGEST = 2000  # characters of a piece: fits the positions of small models


@dataclass(frozen=True)
class UserText:
    """Bits per byte of a user's own plain text (UTF-8, .gz too), by paragraph; lower is better.

    `path` is the file; without it `text/text.txt` of the data folder. Paragraphs are what empty lines part; one above 2,000
    characters is cut at blanks. Every piece stands by itself.
    """

    name: ClassVar[str] = "text"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 0.0
    needs_edit: ClassVar[bool] = False
    path: str = field(default="", metadata={"file": True})
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a piece, named by its place in the file."""
        if not asked_in(scope, self.split):
            return []
        path = self._file()
        try:
            text = unpacked(path.read_bytes(), path)
        except OSError as error:
            raise DataError(f"text: `{path}` cannot be read ({error.strerror or error})") from None
        rows = [(f"{number:05d}", piece) for number, piece in enumerate(pieces(text))]
        if not rows:
            raise DataError(f"text: `{path}` has no words in it")
        kept = pick(rows, scope, self.split, self.most, key=lambda r: r[0], strata=lambda _: "", seed=self.seed)
        if not kept and len(rows) < 2:
            raise DataError(f'text: `{path}` is one paragraph, which cannot be cut into two halves; set split = "all"')
        return [Item(identity, "all", "", {"text": piece}) for identity, piece in kept]

    def _file(self) -> Path:
        if self.path:
            return Path(self.path).expanduser()
        try:
            found = data_folder(self.data) / "text" / "text.txt"
        except BiasGymError:
            found = Path("text/text.txt")
        if not found.is_file():
            raise DataError("text: no file was given; set `path` to a plain text of your own")
        return found

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Sum of log-probabilities (nats), tokens and bytes of each piece."""
        return read_texts(lm, [item.payload["text"] for item in items])

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """Bits of each piece, with its bytes as weight."""
        return bits_of(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`bits_per_byte`: all bits ÷ all bytes."""
        return bits_per_byte(scores, "own text, by paragraph")


def pieces(text: str) -> list[str]:
    """Paragraphs, long ones cut at blanks; inner line breaks stay where nothing is cut."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        bare = paragraph.strip()
        found += [bare] if 0 < len(bare) <= LONGEST else textwrap.wrap(bare, LONGEST)
    return found
