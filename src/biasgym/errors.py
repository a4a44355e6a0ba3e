"""Five errors and one base; every message says what was asked, what was found and what to do.

BiasGymError
├── SpecError      a spec, a key, a value or a name is wrong
├── DataError      a file is missing, altered or malformed
├── ModelError     a model cannot be loaded, or cannot do what is asked
├── TrainingError  training diverged
└── StoreError     the run store cannot be read or written
"""

import difflib
from collections.abc import Iterable


class BiasGymError(Exception):
    """Anything that a user can mend; the doors print it without a traceback."""


class SpecError(BiasGymError):
    """A spec, a key, a value or a name is wrong."""


class DataError(BiasGymError):
    """A file is missing, altered or malformed."""


class ModelError(BiasGymError):
    """A model cannot be loaded, or cannot do what is asked of it."""


class TrainingError(BiasGymError):
    """Training diverged or never started."""


class StoreError(BiasGymError):
    """The run store cannot be read or written."""


def unknown(what: str, asked: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: with the nearest valid one, else with all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    if close:
        return f"unknown {what} `{asked}`; did you mean `{close[0]}`?"
    return f"unknown {what} `{asked}`; there is {', '.join(f'`{name}`' for name in names) or 'none'}"
