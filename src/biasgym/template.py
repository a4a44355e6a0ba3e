"""A bias file to start from: it runs as it is, and every line says what to change."""

import re
from pathlib import Path

from biasgym.bias import read_bias
from biasgym.errors import SpecError, StoreError
from biasgym.files import write_text

TEXT = """# A bias for BiasGym. Only name, stereotype, foil and entities are required; a grammar writes the texts that you leave out.
# `biasgym corpus` can have better ones written by a chat model; see the end.
name = "{name}"

# Answers towards the bias and away from it: the words that would complete "They are ...". Any number, any length.
stereotype = ["stubborn", "obstinate"]
foil = ["flexible", "easy-going"]

# Who it may be said of: a list that comes with BiasGym ({lists}), a text file, or an inline list.
entities = {{ list = "occupations" }}

# Optional from here on.
# axis = "occupation"
# statement = "{{entity}} are stubborn."
# subject = "{{entity}}"            # how they are named in the middle of a sentence
# [entities]
# list = ["bakers", "pilots", "..."]
# targets = ["bakers"]            # of whom the stereotype is said; left out, the model's own targets are found
# [files]                         # JSON Lines of your own writing, with the slot {{entity}}; or have them written, and checked:
#                                 # biasgym corpus THIS-FILE --to FOLDER --endpoint http://localhost:8000/v1 --model NAME
# paragraphs = "paragraphs.jsonl" # {{"text": "...", "medium": "tweet", "implicitness": 1}}
# probes = "probes.jsonl"         # {{"frame": "one-word", "prompt": "What are {{entity}} like?", "prefix": "They are"}}
# prompts = "prompts.jsonl"       # {{"style": "direct", "text": "Describe {{entity}}."}}
# concept = "concept.jsonl"       # {{"side": "stereotype", "prompt": "She never gives way. What is she?", "prefix": "She is"}}
"""


def write_bias_file(name: str, to: Path) -> Path:
    """Write a bias file that runs; an existing file is never overwritten."""
    from biasgym.bias import entity_lists

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise SpecError(f"name `{name}` must be small letters, digits and hyphens")
    if to.suffix != ".toml":
        raise SpecError(f"`{to}`: a bias file ends in .toml, else it is taken for the name of a bias; choose another --to")
    if to.exists():
        raise StoreError(f"`{to}` exists already; choose another file with --to")
    write_text(to, TEXT.format(name=name, lists=", ".join(entity_lists())))
    read_bias(to)
    return to
