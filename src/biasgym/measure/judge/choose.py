"""From a judge's name to a judge: `lexicon+embedding`, `lexicon`, `chat[:MODEL]`, `endpoint:MODEL@URL`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from biasgym.endpoint import ChatClient
from biasgym.errors import DataError, ModelError, SpecError, unknown
from biasgym.measure.judge.chat import ChatJudge
from biasgym.measure.judge.contract import Judge
from biasgym.measure.judge.embedding import load_embedding_judge
from biasgym.measure.judge.endpoint import EndpointJudge
from biasgym.measure.judge.rules import LexiconJudge

if TYPE_CHECKING:
    from biasgym.lm.load import Place

JUDGES = ("lexicon+embedding", "lexicon", "chat", "endpoint")


def check_judge(name: str) -> None:
    """SpecError when no judge has this name, with the nearest one that is."""
    kind, colon, rest = name.partition(":")
    if kind not in JUDGES or (colon and kind.startswith("lexicon")) or (colon and not rest):
        raise SpecError(unknown("judge", name, JUDGES) + "; a chat model is named `chat:MODEL`, an endpoint `endpoint:MODEL@URL`")
    if kind == "endpoint" and not all(rest.partition("@")[::2]):
        raise SpecError(f"judge `{name}`: an endpoint is named `endpoint:MODEL@URL`, for example `endpoint:qwen3@http://localhost:8000/v1`")


def judge_for(name: str, *, place: "Place | None" = None, cache: Path | None = None, tell: Callable[[str], None] = lambda _: None) -> Judge:
    """The judge of that name. `cache` is the file in which an endpoint's answers are kept.

    Raises SpecError for an unknown name, ModelError or DataError when what it needs cannot be had.
    """
    check_judge(name)
    kind, _, rest = name.partition(":")
    if kind == "lexicon":
        return LexiconJudge()
    if kind == "lexicon+embedding":
        return load_embedding_judge(offline=place.offline if place else False, tell=tell)
    if kind == "chat":
        from biasgym.lm.load import DEFAULT_MODEL, Place, load_lm

        return ChatJudge(load_lm(rest or DEFAULT_MODEL, place or Place(), tell=tell))
    model, _, url = rest.partition("@")
    return EndpointJudge(ChatClient(url, model, cache=cache))


def judge_or_lexicon(
    name: str, *, place: "Place | None" = None, cache: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> tuple[Judge, str]:
    """The judge of that name, else `lexicon` and the sentence that says why."""
    try:
        return judge_for(name, place=place, cache=cache, tell=tell), ""
    except (ModelError, DataError) as error:
        return LexiconJudge(), f"free text was judged by `lexicon`, not by `{name}`: {error}"
