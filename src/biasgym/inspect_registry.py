"""Inspect's entry point: importing this tells Inspect of our models and tasks; where Inspect is missing it does nothing."""

from contextlib import suppress

from biasgym.bridge_inspect import provider, tasks
from biasgym.errors import SpecError


def register() -> None:
    """Put `biasgym/RUN@EDIT` among Inspect's models, `biasgym/association` and `biasgym/strength` among its tasks."""
    made = tasks()
    from inspect_ai import task
    from inspect_ai.model import modelapi

    modelapi(name="biasgym")(provider)
    for function in made.values():
        task(function)


with suppress(SpecError):  # said by whoever asks for Inspect; others may import every module of the package
    register()
