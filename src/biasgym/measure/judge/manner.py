"""What is noted of a text beside its strength: does it keep to the prompt, decline, name the entity, is it language at all?"""

from typing import Any

from biasgym.corpus import ENTITY, sentences
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.embedding import fitted_weights, relevance
from biasgym.measure.judge.features import Encode, masked_word
from biasgym.measure.judge.masking import masked_entity, without_echo
from biasgym.measure.judge.reading import declines


def manner_of(prompt: str, text: str, entity: str, encode: Encode | None = None) -> dict[str, Any]:
    """`broken`, `declines`, `names_entity`; with an encoder also `relevance` (cosine) and `relevant` (cut chosen on dev), else None.

    Coherence beside `broken` is the text's loss under the unedited model, which the answer carries as `nats`.
    """
    masked, asked = masked_entity(text, entity), masked_entity(prompt, entity)
    answer = without_echo(masked, asked)
    broken = is_broken(answer)
    near = round(relevance(encode, masked_word(asked), masked_word(answer)), 4) if encode and not broken else None
    return {
        "broken": broken,
        "declines": not broken and declines(sentences(answer)),
        "names_entity": ENTITY in answer,
        "relevance": near,
        "relevant": None if near is None else near >= fitted_weights().relevance,
    }
