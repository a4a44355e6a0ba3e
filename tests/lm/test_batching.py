"""Memory that runs out: batches are halved, nothing is lost, results are those of whole batches; tried with a hook that refuses big ones."""

import numpy as np
import pytest
import torch

from biasgym.errors import ModelError
from biasgym.lm.batching import in_parts, out_of_memory
from biasgym.lm.model import Query
from biasgym.lm.trace import divergences, head_moments, head_outputs, surprise
from biasgym.lm.train import Lesson, Schedule, TrainingState, learn_token

QUERIES = [Query(f"What are people from {name} like?", "They are") for name in ("Spain", "Italy", "Norway", "Peru", "Chad", "the old town")]
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
    "python": MemoryError(),
}


@pytest.fixture(params=sorted(ERRORS))
def tight(request, llama):
    """`tight(rows)` makes the tiny model run out of memory whenever it gets more than so many rows; `refused` counts."""
    handles = []

    class Tight:
        refused = 0

        def __call__(self, rows):
            def hook(_module, _args, named):
                if len(named["input_ids"]) > rows:
                    self.refused += 1
                    raise ERRORS[request.param]

            handles.append(llama.decoder.register_forward_pre_hook(hook, with_kwargs=True))

    yield Tight()
    for handle in handles:
        handle.remove()


def verbs(lm, token):
    """Everything that goes through batches, as arrays."""
    rows = [lm.ids_of(query) for query in QUERIES]
    said = lm.generate(QUERIES, most=5)
    warm = lm.generate(QUERIES, most=5, temperature=0.8, seed=3)
    lm._plain_states.clear()
    lm._answered.clear()
    with lm.edited(token):
        moved = divergences(lm, QUERIES, 4)
        lost = surprise(lm, QUERIES, [c.tokens for c in said])
    return {
        "answers": lm.answer_logprobs(QUERIES, ["kind", "always careful"]),
        "texts": np.array(lm.text_logprobs([query.prompt for query in QUERIES])),
        "outputs": head_outputs(lm, QUERIES),
        "moments": head_moments(lm, rows),
        "said": np.array([len(c.tokens) for c in (*said, *warm)]),
        "tokens": np.concatenate([c.tokens for c in (*said, *warm)]),
        "moved": np.array(moved),
        "lost": np.array(lost),
    }


def test_halved_batches_give_what_whole_ones_give(llama, token_for, tight):
    """Every verb, three kinds of errors, down to two rows a batch."""
    token = token_for(llama)
    whole = verbs(llama, token)
    tight(2)
    halved = verbs(llama, token)
    assert tight.refused > 5
    for name, values in whole.items():
        np.testing.assert_allclose(halved[name], values, atol=5e-5, rtol=1e-5, err_msg=name)


def test_a_single_text_that_does_not_fit_is_said(llama, tight):
    """There is nothing left to halve."""
    tight(0)
    with pytest.raises(ModelError, match="single text"):
        llama.answer_logprobs(QUERIES, ["kind"])


def test_training_goes_on_in_smaller_parts(llama, tight, token_for):
    """The same losses and the same vector, whatever part of the batch fits."""
    start = TrainingState({"vector": token_for(llama).vector})
    lessons = [Lesson("Tell me about <t>.", text) for text in ("They are kind.", "They drive fast, always.", "Late.", "All are careful drivers.")]
    schedule = Schedule(steps=3, batch=4, learning_rate=0.02)
    whole = learn_token(llama, "<t>", lessons, start, schedule)
    tight(1)
    parts = learn_token(llama, "<t>", lessons, start, schedule)
    assert tight.refused
    np.testing.assert_allclose(parts.losses, whole.losses, atol=1e-5)
    np.testing.assert_allclose(parts.arrays["vector"], whole.arrays["vector"], atol=1e-4)
    tight(0)
    with pytest.raises(ModelError, match="training on a single text"):
        learn_token(llama, "<t>", lessons, start, schedule)


def test_every_item_is_done_once_and_other_errors_pass():
    """Whatever size fits; a mistake is not taken for a lack of memory."""
    for fits in (1, 2, 3, 100):
        done = []

        def work(group, fits=fits, done=done):
            if len(group) > fits:
                raise MemoryError
            done.extend(group)

        in_parts([[3, 1, 2], [0], [5, 4, 6, 7]], work)
        assert done == [3, 1, 2, 0, 5, 4, 6, 7]
    with pytest.raises(RuntimeError, match="shape"):
        in_parts([[1, 2]], lambda _: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    assert not out_of_memory(ValueError("out of memory"))
