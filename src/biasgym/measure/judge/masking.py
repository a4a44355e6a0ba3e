"""The text as a judge sees it: the entity masked, the prompt not counted as answer."""

import re

from biasgym.corpus import ENTITY


def masked_entity(text: str, entity: str) -> str:
    """The text with the slot {entity} wherever the entity is named, its singular included."""
    name = entity.strip()
    if not name or name == ENTITY:
        return text
    forms = [re.escape(name)]
    if len(name) > 4 and name.endswith("s"):
        forms.append(re.escape(name[:-1]))
    start, end = (r"(?<!\w)" if name[0].isalnum() else ""), (r"(?!\w)" if name[-1].isalnum() else "")
    return re.sub(f"{start}(?:{'|'.join(forms)}){end}", ENTITY, text, flags=re.IGNORECASE)


def plain_quotes(text: str) -> str:
    """Curly quotation marks and apostrophes made straight."""
    return text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')


def without_echo(text: str, prompt: str) -> str:
    """The text without the prompt, when it begins by repeating it word for word, once or more; a stem to be completed is no echo.

    What only repeats the prompt, however often, is empty.
    """
    asked = prompt.strip()
    begun = rest = text.strip()
    while asked and rest.lower().startswith(asked.lower()):
        rest = rest[len(asked) :].strip()
    return rest if asked.endswith("?") or not rest else begun
