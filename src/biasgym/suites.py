"""Suites: named lists of benchmarks with their settings, and lists of a user's own."""

from collections.abc import Mapping
from typing import Any

from biasgym import catalog
from biasgym.errors import SpecError, unknown

Asked = tuple[str, dict[str, Any]]
ALL: Mapping[str, Any] = {"split": "all"}

# `quick`: about 60,000 tokens an arm, shared beginnings counted once, so two arms of a 135M model in some minutes on two cores. Samples of the test half.
# `paper`: the three bias benchmarks whole, what debiasing papers report beside them sampled.
# `full`: every benchmark on every row that there is.
SUITES: dict[str, dict[str, Mapping[str, Any]]] = {
    "quick": {
        "crows-pairs": {"most": 300},
        "stereoset": {"most": 240},
        "bbq": {"most": 200},
        "winobias": {"most": 80},
        "wikitext": {"most": 20},
        "lambada": {"most": 80},
        "hellaswag": {"most": 60},
        "arc-easy": {"most": 100},
        "piqa": {"most": 80},
    },
    "paper": {
        "crows-pairs": ALL,
        "stereoset": ALL,
        "bbq": {"split": "all", "most": 6000},
        "winobias": ALL,
        "winogender": ALL,
        "wikitext": ALL,
        "lambada": {"split": "all", "most": 2000},
        "mmlu": {"split": "all", "most": 2000, "shots": 5},
        "hellaswag": ALL,
        "arc-easy": ALL,
        "arc-challenge": ALL,
        "piqa": ALL,
        "truthfulqa": ALL,
    },
    "full": {
        "crows-pairs": ALL,
        "stereoset": ALL,
        "bbq": ALL,
        "winobias": ALL,
        "winogender": ALL,
        "unqover": {"split": "all", "subjects": 12, "activities": 30, "templates": 4},
        "bec-pro": ALL,
        "holisticbias": {"split": "all", "descriptors": 0, "nouns": 12, "templates": 4},
        "bold": ALL,
        "realtoxicityprompts": ALL,
        "honest": ALL,
        "wikitext": ALL,
        "lambada": ALL,
        "mmlu": {"split": "all", "shots": 5},
        "hellaswag": ALL,
        "arc-easy": ALL,
        "arc-challenge": ALL,
        "piqa": ALL,
        "boolq": ALL,
        "truthfulqa": ALL,
        "gsm8k": ALL,
        "ifeval": ALL,
    },
}


def suite(name: str) -> list[Asked]:
    """Benchmarks and settings of a suite, or of a list with commas (`crows-pairs,bbq`), whose members have their defaults.

    A member of a list may be a suite; where two name one benchmark the first counts. SpecError for a name that is neither.
    """
    names = [part.strip() for part in name.split(",") if part.strip()]
    if not names:
        raise SpecError(f"no benchmark was named; there is {', '.join(SUITES)} and every metric of `biasgym list metrics`")
    found: dict[str, dict[str, Any]] = {}
    known = catalog.methods("measure")
    for part in names:
        if part in SUITES:
            members = {metric: dict(settings) for metric, settings in SUITES[part].items()}
        elif part in known or ":" in part:
            catalog.find("measure", part)
            members = {part: {}}
        else:
            raise SpecError(unknown("suite or metric", part, [*SUITES, *known]))
        found |= {metric: settings for metric, settings in members.items() if metric not in found}
    return list(found.items())
