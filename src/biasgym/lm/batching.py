"""Batches that do not fit into memory are halved and asked again; no item is lost and none is asked twice for keeps."""

from collections.abc import Callable, Iterable, Sequence

import torch

from biasgym.errors import ModelError

# What allocators say: CUDA has a class of its own, the CPU's and the Apple GPU's are plain RuntimeErrors.
SAYINGS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in SAYINGS)


def in_parts(groups: Iterable[Sequence[int]], work: Callable[[list[int]], None]) -> None:
    """Do `work` on every group of positions; a group that runs out of memory is halved until it fits, and so are those after it.

    `work` has to assign its results (not add to them) as the last thing it does, so that a half-done group leaves nothing
    wrong behind. Rows do not depend on their neighbours, so results are those of whole groups, within rounding. Groups are
    taken to be about equally large: what did not fit once is not tried whole again. Raises ModelError when a single item
    does not fit.
    """
    waiting = [(list(group), 1) for group in groups]  # and into how many parts its group has been cut
    waiting.reverse()
    least = 1
    while waiting:
        group, parts = waiting.pop()
        if (parts >= least or len(group) == 1) and _fits(group, work):
            continue
        if len(group) == 1:
            raise ModelError("out of memory with a single text; try --dtype bfloat16, --device disk, a smaller model or another device")
        half, least = len(group) // 2, max(least, 2 * parts)
        waiting += [(group[half:], 2 * parts), (group[:half], 2 * parts)]


def _fits(group: list[int], work: Callable[[list[int]], None]) -> bool:
    try:
        work(group)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    else:
        return True
    release()
    return False


def release() -> None:
    """Give back what a GPU's allocator keeps for itself; the failed pass's error, and the tensors that it held, must be gone by now."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
