"""From a scorer's name to a scorer: `davidson`, trained here once, or a folder with a text classifier of the user's."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from biasgym.data import cache_folder, folder_digest
from biasgym.datasets import Library
from biasgym.errors import DataError, SpecError
from biasgym.files import locked
from biasgym.measure.toxicity.contract import Scorer, ScorerQuality
from biasgym.measure.toxicity.labelled import DAVIDSON, davidson, texts_of
from biasgym.measure.toxicity.logistic import Logistic, fit_logistic, read_logistic, write_logistic
from biasgym.measure.toxicity.quality import qualities_of
from biasgym.records import fingerprint

OWN = "davidson"
RECIPE = 1  # a change of features, split or fitting is a new number, so that old weights are not taken for new ones
SHARES = (0.25, 0.25, 0.5)  # hate speech, though rare, weighs as much as what is only offensive
RIDGE = 3e-5  # the best of five on the dev part (experiments/toxicity_scorer.py)


@dataclass(frozen=True)
class Davidson:
    """The scorer of our own: logistic regression on hashed words, trained on the tweets of Davidson et al. 2017.

    It knows the abuse of US Twitter in 2017, its words above all: see its quality on HateCheck before believing it of anything
    else. The labels call African American English offensive too often (Sap et al. 2019), and so will it.
    """

    model: Logistic
    key: str
    name: str = OWN

    def score(self, texts: Any) -> list[float]:
        """Probability that each text is hate speech or offensive."""
        return self.model.score(texts)


@dataclass(frozen=True)
class Scored:
    """A scorer with what is known of it."""

    scorer: Scorer
    qualities: tuple[ScorerQuality, ...]


def check_scorer(name: str) -> None:
    """SpecError for a name that is neither ours nor a folder."""
    if name != OWN and not Path(name.partition("#")[0]).expanduser().is_dir():
        raise SpecError(
            f"no scorer `{name}`: `{OWN}` is ours; FOLDER or FOLDER#LABEL names a text classifier as transformers saves it, and there is no such folder"
        )


def scorer_key(name: str, sets: Library) -> str:
    """What decides a scorer's scores, known without training or loading it."""
    check_scorer(name)
    if name == OWN:
        folder, file, _ = DAVIDSON
        return f"{OWN}-{fingerprint([RECIPE, SHARES, RIDGE, sets.about(folder).files[f'{folder}/{file}']])}"
    folder_name, _, label = name.partition("#")
    path = Path(folder_name).expanduser()
    return f"{path.name}-{fingerprint([folder_digest(path), label])}"


def scorer_for(name: str, sets: Library) -> Scored:
    """The scorer of that name with its quality; ours is trained from the data folder on first use (seconds) and kept in the cache.

    SpecError for an unknown name, DataError when the texts that it learns from are missing: the message says where they are.
    """
    key = scorer_key(name, sets)
    folder = cache_folder() / "scorers" / key
    try:
        with locked(folder.parent / f".{key}.lock", wait=True):
            scorer = _own(key, folder, sets) if name == OWN else _other(name, key)
            return Scored(scorer, tuple(qualities_of(scorer, sets, folder)))
    except OSError as error:
        raise DataError(f"cannot write the scorers' cache at `{folder.parent}`: {error.strerror or error}; set BIASGYM_CACHE") from None


def _own(key: str, folder: Path, sets: Library) -> Scorer:
    path = folder / "weights.safetensors"
    if not path.is_file():
        rows = davidson(sets, "train")
        write_logistic(path, fit_logistic(texts_of(rows), [row.kind for row in rows], SHARES, ridge=RIDGE))
    return Davidson(read_logistic(path), key)


@lru_cache(maxsize=1)  # every batch of answers asks for it
def _other(name: str, key: str) -> Scorer:
    from biasgym.lm.classify import load_classifier

    folder, _, label = name.partition("#")
    return load_classifier(Path(folder).expanduser(), label, key=key)
