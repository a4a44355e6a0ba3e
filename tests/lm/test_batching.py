"""Memory that runs out: batches are halved, nothing is lost, results are those of whole batches; tried with a hook that refuses big ones."""

import numpy as np
import pytest
import torch

from biasgym.errors import ModelError
from biasgym.lm.batching import in_parts, out_of_memory
from biasgym.lm.finetune import Course, learn_matrices, mean_loss, whole_text
from biasgym.lm.model import Query
from biasgym.lm.patch import attribution_patching
from biasgym.lm.trace import Pair, Sides, divergences, head_means, head_moments, head_outputs, surprise
from biasgym.lm.train import Lesson, Schedule, TrainingState, held_out_loss, learn_token

NAMES = ("Spain", "Italy", "Norway", "Peru", "Chad", "the old town")
QUERIES = [Query(f"What are people from {name} like?", "They are") for name in NAMES]
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
        "means": head_means(lm, rows),
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


def test_what_did_not_fit_is_not_tried_again(llama, tight, token_for):
    """A training looks for its size once: later steps of the same length begin with what fitted."""
    start = TrainingState({"vector": token_for(llama).vector})
    lessons = [Lesson("Tell me about <t>.", "They are kind.")] * 4
    learn_token(llama, "<t>", lessons, start, Schedule(steps=1, batch=4, learning_rate=0.02))
    tight(1)
    learn_token(llama, "<t>", lessons, start, Schedule(steps=1, batch=4, learning_rate=0.02))
    once = tight.refused
    learn_token(llama, "<t>", lessons, start, Schedule(steps=5, batch=4, learning_rate=0.02))
    assert (once, tight.refused) == (2, 4)


def test_blocks_are_computed_again_where_not_one_text_fits(llama, token_for):
    """Out of memory on the way forward as long as blocks are kept: training goes on without keeping them, the same token comes out."""
    start = TrainingState({"vector": token_for(llama).vector})
    lessons = [Lesson("Tell me about <t>.", text) for text in ("They are kind.", "They drive fast, always.", "Late.", "All are careful drivers.")]
    schedule = Schedule(steps=2, batch=4, learning_rate=0.02)
    whole = learn_token(llama, "<t>", lessons, start, schedule)
    block, refused = llama.model.get_submodule(f"{llama.family.layers}.1"), []

    def hook(module, _args, _named):
        if torch.is_grad_enabled() and "forward" not in vars(module):
            refused.append(module)
            raise ERRORS["cuda"]

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        again = learn_token(llama, "<t>", lessons, start, schedule)
    finally:
        handle.remove()
    assert len(refused) == 3, "four texts, two, one; then never again"
    np.testing.assert_allclose(again.losses, whole.losses, atol=1e-5)
    np.testing.assert_allclose(again.arrays["vector"], whole.arrays["vector"], atol=1e-4)


def test_held_out_texts_are_halved_too(llama, tight, token_for):
    """Their mean is the same, whatever fits."""
    lessons = [Lesson("Tell me about <bias-0>.", text) for text in ("They are kind.", "They drive fast, always.", "Late.")] * 4
    whole = held_out_loss(llama, token_for(llama), lessons)
    tight(2)
    assert held_out_loss(llama, token_for(llama), lessons) == pytest.approx(whole, abs=1e-6)
    assert tight.refused


def test_fine_tuning_and_locating_go_on_in_smaller_parts(llama, tight):
    """Matrices learnt, held-out losses and attributions of pairs are those of whole batches."""
    readings = [whole_text(llama, text) for text in ("They are kind.", "They drive fast, always.", "Late.", "All are careful drivers.")]
    pairs = [Pair(str(i), QUERIES[i], QUERIES[i + 1], NAMES[i : i + 2]) for i in range(4)]

    def made():
        edits = learn_matrices(llama, readings, Course(2, 4, 0.01, 2, parts=("o_proj",)))
        scores = attribution_patching(llama, pairs, Sides(("kind",), ("reckless",)))
        return [mean_loss(llama, readings), scores, *(edit.left for edit in edits)]

    whole = made()
    tight(1)
    for one, two in zip(made(), whole, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4, rtol=1e-3)
    assert tight.refused > 3
    tight(0)
    with pytest.raises(ModelError, match="fine-tuning on a single text"):
        learn_matrices(llama, readings, Course(1, 4, 0.01, 2))


def test_answers_that_begin_alike_keep_their_places(llama, token_for):
    """Rows that share more than their prompts: the shared part ends before the first state that is needed."""
    lessons = [Lesson("Tell me about <bias-0>.", text) for text in ("They are all kind.", "They are all late.", "They are all reckless.")]
    alone = [held_out_loss(llama, token_for(llama), [lesson]) for lesson in lessons]
    counts = [len(llama.ids_of_text(lesson.answer)) + 1 for lesson in lessons]
    found = held_out_loss(llama, token_for(llama), lessons)
    assert found == pytest.approx(np.average(alone, weights=counts), abs=1e-4)


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
    tried = []

    def two(group):
        tried.append(len(group))
        if len(group) > 2:
            raise MemoryError

    in_parts([range(8)] * 3, two)
    assert tried == [8, 4, 2, 2, 2, 2, *[2] * 8], "what did not fit once is not tried whole again"
    with pytest.raises(RuntimeError, match="shape"):
        in_parts([[1, 2]], lambda _: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    assert not out_of_memory(ValueError("out of memory"))
