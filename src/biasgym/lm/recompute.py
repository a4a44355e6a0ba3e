"""Blocks that are computed a second time on the way back, instead of being kept: time for memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from biasgym.lm.model import LM
from biasgym.lm.trace import blocks_of


@contextmanager
def recomputed(lm: LM) -> Iterator[None]:
    """For the length of a block of code, passes keep only what goes into each of the model's blocks (gradient checkpointing).

    After Chen et al. 2016 (arXiv 1604.06174), every block a segment. Gradients are those of the ordinary pass. The backward
    pass has to come inside, too, and the forward pass must not fill a cache: a block that runs twice would fill it twice.
    """
    blocks = blocks_of(lm)
    before = [(block, vars(block).get("forward")) for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        # Stopping early leaves the last matrix of a block without its hook, and its weights, read from disk, in memory.
        with set_checkpoint_early_stop(not lm.streamed):
            yield
    finally:
        for block, forward in before:
            if forward is None:
                del block.forward
            else:
                block.forward = forward  # type: ignore[method-assign]
