"""BiasGym: elicit a bias in an open-weight language model on purpose, find what carries it, remove it, prove the change.

The names below are what a program needs; each is fetched when it is first asked for, so importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biasgym.asking import Question as Question
    from biasgym.asking import ask as ask
    from biasgym.bias import BiasSpec as BiasSpec
    from biasgym.bias import load_bias as load_bias
    from biasgym.bias import zoo as zoo
    from biasgym.catalog import build as build
    from biasgym.edits import SiteEdit as SiteEdit
    from biasgym.edits import TokenEdit as TokenEdit
    from biasgym.errors import BiasGymError as BiasGymError
    from biasgym.lm.load import Place as Place
    from biasgym.lm.load import load_lm as load_lm
    from biasgym.lm.model import LM as LM
    from biasgym.lm.model import Query as Query
    from biasgym.measure import Scope as Scope
    from biasgym.product import export_run as export_run
    from biasgym.records import RunRecord as RunRecord
    from biasgym.records import RunSpec as RunSpec
    from biasgym.report import write_report as write_report
    from biasgym.run import Job as Job
    from biasgym.run import Session as Session
    from biasgym.run import load_edits as load_edits
    from biasgym.sites import Attribution as Attribution
    from biasgym.sites import Site as Site
    from biasgym.spec import resolve_spec as resolve_spec
    from biasgym.store import RunStore as RunStore
    from biasgym.store import read_record as read_record
    from biasgym.verdict import verdict_of as verdict_of

__version__ = "0.1.0"

# Where each public name lives, in the order in which the reference tells of them.
PUBLIC = {
    "load_lm": "lm.load",
    "Place": "lm.load",
    "LM": "lm.model",
    "Query": "lm.model",
    "zoo": "bias",
    "load_bias": "bias",
    "BiasSpec": "bias",
    "resolve_spec": "spec",
    "RunSpec": "records",
    "RunStore": "store",
    "Session": "run",
    "Job": "run",
    "build": "catalog",
    "Site": "sites",
    "Attribution": "sites",
    "SiteEdit": "edits",
    "TokenEdit": "edits",
    "Scope": "measure",
    "RunRecord": "records",
    "read_record": "store",
    "load_edits": "run",
    "verdict_of": "verdict",
    "write_report": "report",
    "Question": "asking",
    "ask": "asking",
    "export_run": "product",
    "BiasGymError": "errors",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'biasgym' has no attribute {name!r}")
    return getattr(importlib.import_module(f"biasgym.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
