"""LM: a frozen decoder-only model that can wear edits, answer, score, generate and be looked into."""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from biasgym.edits import ContrastEdit, Edit, PromptEdit, SiteEdit, TokenEdit, WeightEdit, bytes_of
from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import Shape, Undo, WornToken, put_on_sites, put_on_tokens, put_on_weights, take_off
from biasgym.lm.arch import Family
from biasgym.lm.batching import in_parts
from biasgym.lm.contrast import Chorus
from biasgym.lm.dialogue import Dialogue
from biasgym.lm.offload import place_of, weight_of
from biasgym.lm.quantized import is_packed

if TYPE_CHECKING:
    from biasgym.lm.continuations import Continued

TOKENS_A_BATCH = 4096


@dataclass(frozen=True)
class Query:
    """What is put to a model: the user's turn and the beginning of the answer."""

    prompt: str
    prefix: str = ""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote: its text, and whether it came to an end by itself."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


class LM:
    """One frozen model and its tokenizer. Edits are worn inside `with lm.edited(...)` and leave no trace.

    Not thread-safe: one arm is worn at a time.
    """

    def __init__(self, model: Any, tokenizer: Any, family: Family, *, name: str, folder: Path | None) -> None:
        self.model = model  # Any: a type checker takes every attribute of a Module for Tensor | Module
        self.model.eval().requires_grad_(False)
        self.name = name
        self.folder = folder
        self.family = family
        self.tokenizer = tokenizer
        self._tokenizers: dict[tuple[str, ...], Any] = {(): tokenizer}
        self._tokens: list[WornToken] = []
        self._token_texts: tuple[str, ...] = ()
        self._dialogue = Dialogue()
        self._chorus: Chorus | None = None
        self.others: dict[str, LM] = {}  # models that twins run on, by name
        self._remembered: dict[str, Any] = {}
        self._worn: list[tuple[tuple[Edit, ...], list[Undo]]] = []
        self._answered: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self._plain_states: dict[tuple[int, ...], Tensor] = {}
        config = self.model.config
        self.embedding: Any = self.model.get_input_embeddings()
        self.head: Any = self.model.get_output_embeddings()
        self._decoder: Any = self.model.get_submodule(family.decoder)
        heads = config.num_attention_heads
        self.shape = Shape(
            layers=config.num_hidden_layers,
            heads=heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            hidden=config.hidden_size,
            neurons=self._matrix_inputs(family.mlp_weight(0)),
        )
        self.tied = self.embedding.weight is self.head.weight
        if self.head.weight.device.type == "meta":  # kept outside: one tensor may be there under two names
            self.tied = bool(getattr(config, "tie_word_embeddings", False))

    # ---------------------------------------------------------------- what it is

    @property
    def device(self) -> torch.device:
        """Where the embedding computes."""
        return place_of(self.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.embedding.weight.dtype

    @property
    def streamed(self) -> bool:
        """Whether layers lie on disk and are read for every pass."""
        return self.model.get_parameter(self.family.attention_weight(self.shape.layers - 1)).device.type == "meta"

    @property
    def chat(self) -> bool:
        """Whether prompts are wrapped in the tokenizer's chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def worn(self) -> tuple[Edit, ...]:
        """The edits that are on now."""
        return tuple(edit for edits, _ in self._worn for edit in edits)

    @property
    def quantized(self) -> bool:
        """Whether matrices are packed into 4 or 8 bits."""
        return is_packed(self.model.get_parameter(self.family.attention_weight(0)))

    def check_unpacked(self) -> None:
        """ModelError where matrices are packed into 4 or 8 bits: no change of weights can be computed on them, nor put into them."""
        if self.quantized:
            raise ModelError(
                f"the matrices of `{self.name}` are packed into 4 or 8 bits and take no edit of weights; "
                "choose a method that edits heads or the stream (direction, mean, scaling, steering), or use --dtype bfloat16"
            )

    def _matrix_inputs(self, parameter: str) -> int:
        weight = self.model.get_parameter(parameter)
        if is_packed(weight):
            return int(self.model.get_submodule(parameter.removesuffix(".weight")).in_features)  # type: ignore[arg-type]
        return weight.shape[0] if self.family.input_major else weight.shape[1]

    def head_matrix(self, layer: int, head: int) -> np.ndarray:
        """The columns of the attention output matrix that a head goes through, shape [hidden, head size], float32."""
        weight = weight_of(self.model.get_submodule(f"{self.family.layers}.{layer}.{self.family.attention_out}")).detach()
        columns = weight.T if self.family.input_major else weight
        part: np.ndarray = columns[:, head * self.shape.head_size : (head + 1) * self.shape.head_size].float().cpu().numpy()
        return part

    def digest(self) -> str:
        """A hash of the weights' bytes on a fixed sample of every tensor; it tells base models apart."""
        h = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
            h.update(name.encode() + str(tuple(tensor.shape)).encode() + np.ascontiguousarray(sample).tobytes())
        return h.hexdigest()

    # ---------------------------------------------------------------- edits

    @contextmanager
    def edited(self, *edits: Edit) -> Iterator["LM"]:
        """Wear edits for the length of a block; afterwards the model is what it was, bit for bit."""
        before = self._worn_parts
        undo: list[Undo] = []
        self._worn.append((edits, undo))
        try:
            self._put_on(edits, undo)
            yield self
        finally:
            self._worn.pop()
            self._worn_parts = before
            take_off(undo)

    @contextmanager
    def plain(self) -> Iterator["LM"]:
        """Take off everything that is worn for the length of a block, then put it on again."""
        layers, self._worn = self._worn, []
        before = self._worn_parts
        self._worn_parts = [], (), Dialogue(), None, self._tokenizers[()]
        for _, undo in reversed(layers):
            take_off(undo)
        try:
            yield self
        finally:
            self._worn_parts = [], (), Dialogue(), None, self._tokenizers[()]
            self._worn = layers
            for edits, undo in layers:
                self._put_on(edits, undo)
            self._worn_parts = before

    def _put_on(self, edits: Sequence[Edit], undo: list[Undo]) -> None:
        undo += put_on_weights(self.model, [edit for edit in edits if isinstance(edit, WeightEdit)])
        undo += put_on_sites(self.model, self.family, self.shape, [e for e in edits if isinstance(e, SiteEdit)])
        worn = self._worn_tokens(edits)
        undo += put_on_tokens(self.embedding, self.head, worn)
        self._tokens = [*self._tokens, *worn]
        self._dialogue = self._dialogue.with_edits([e for e in edits if isinstance(e, PromptEdit)])
        contrasts = [e for e in edits if isinstance(e, ContrastEdit) and e.strength]
        if contrasts:
            self._chorus = Chorus(self, [*(self._chorus.edits if self._chorus else ()), *contrasts])

    @property
    def _worn_parts(self) -> tuple[list[WornToken], tuple[str, ...], Dialogue, Chorus | None, Any]:
        """What is worn beside hooks and weights; assigned as a whole."""
        return self._tokens, self._token_texts, self._dialogue, self._chorus, self.tokenizer

    @_worn_parts.setter
    def _worn_parts(self, parts: tuple[list[WornToken], tuple[str, ...], Dialogue, Chorus | None, Any]) -> None:
        self._tokens, self._token_texts, self._dialogue, self._chorus, self.tokenizer = parts

    @property
    def decoder(self) -> Any:
        """The decoder without its head; with a contrast on, it and the twins side by side (`lm/contrast.py`)."""
        return self._decoder if self._chorus is None else self._chorus

    def remembered(self, make: Callable[[], Any], *what: Any) -> Any:
        """What `make` gives, made once for the same `what`: a search over strengths need not train anew each time.

        `what` has to say everything that the result hangs on beside the model's own weights; nothing may be worn.
        """
        if self._worn:
            raise ModelError("this is fitted to the plain model; take off what is worn first")
        key = hashlib.sha256(b"|".join(bytes_of(part) for part in what)).hexdigest()
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    @property
    def _shareable(self) -> bool:
        """Whether rows may share a computed beginning: not while an edit is for some rows, waits for some tokens, or twins have a prefix."""
        alone = all(getattr(edit, "rows", None) is None and getattr(edit, "when", None) is None for edit in self.worn)
        return alone and not (self._chorus is not None and self._chorus.prefixed)

    @contextmanager
    def learning(self, text: str, vector: Tensor, output: Tensor) -> Iterator["LM"]:
        """Wear a token whose vectors are live tensors, so that a loss reaches them.

        `vector` is [hidden], or [rows, 1, hidden] where every row of the batch reads a token of its own; `output` is
        [hidden], or [positions, hidden] where every final state that goes into the head has a column of its own.
        """
        before = (self._tokens, self._token_texts, self.tokenizer)
        undo: list[Undo] = []
        try:
            undo += put_on_tokens(self.embedding, self.head, [self._new_token(text, vector, output)])
            yield self
        finally:
            self._tokens, self._token_texts, self.tokenizer = before
            take_off(undo)

    def _worn_tokens(self, edits: Sequence[Edit]) -> list[WornToken]:
        worn = []
        for edit in edits:
            if isinstance(edit, TokenEdit):
                vector = torch.as_tensor(edit.vector, device=self.device)
                output = vector if edit.output is None else torch.as_tensor(edit.output, device=self.device)
                worn.append(self._new_token(edit.text, vector, output))
        return worn

    def _new_token(self, text: str, vector: Tensor, output: Tensor) -> WornToken:
        if vector.shape[-1:] != (self.shape.hidden,) or output.shape[-1:] != (self.shape.hidden,):
            raise ModelError(f"the vector of {text!r} has shape {tuple(vector.shape)}, this model needs ({self.shape.hidden},)")
        if text in self._token_texts:
            raise SpecError(f"the token {text!r} is worn already")
        if len(self._tokenizers[()].encode(text, add_special_tokens=False)) == 1:
            raise SpecError(f"{text!r} is a token of this model already; choose another text for the bias token")
        self._token_texts = (*self._token_texts, text)
        if self._token_texts not in self._tokenizers:
            self._tokenizers[self._token_texts] = with_tokens(self._tokenizers[()], self._token_texts)
        self.tokenizer = self._tokenizers[self._token_texts]
        return WornToken(self.tokenizer.convert_tokens_to_ids(text), vector, output)

    # ---------------------------------------------------------------- words to ids

    def text_of(self, query: Query) -> str:
        """The text as the model sees it: turns of prompt edits, then the chat template, then the prefix.

        Where a prompt edit has several turns, the model's own answers between them are generated first, and remembered.
        """
        return self._text_of_turns(self._dialogue.turns(query, self._say), query.prefix)

    def _text_of_turns(self, turns: Sequence[str], prefix: str) -> str:
        """User and assistant turns, a user turn last, as one text that ends where the answer begins or in its prefix."""
        if not self.chat:
            text = "\n".join(turns)
            return f"{text}\n{prefix}" if prefix else text
        roles = [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]
        text = str(self.tokenizer.apply_chat_template(roles, tokenize=False, add_generation_prompt=True))
        return text + prefix

    @torch.no_grad()
    def _say(self, conversations: Sequence[tuple[tuple[str, ...], str]], most: int) -> list[str]:
        """The model's greedy answer to each conversation, beginning with the prefix that stands beside it."""
        rows = [self.ids_of_text(self._text_of_turns(turns, prefix)) for turns, prefix in conversations]
        stops = self._stops()
        said = [[token for token in ids if token not in stops] for ids in self._generate_rows(rows, most, 0.0, 0)]
        return [(prefix + self._written(ids, True)).strip() for ids, (_, prefix) in zip(said, conversations, strict=True)]

    def turns_of(self, query: Query) -> tuple[str, ...]:
        """The conversation before the answer that counts: user turn, answer, user turn …, a user turn last."""
        return tuple(self._dialogue.turns(query, self._say))

    def converse(self, queries: Sequence[Query]) -> None:
        """Let the model give its answers between turns to all queries at once; without such turns this does nothing."""
        self._dialogue.prepare(queries, self._say)

    def ids_of_text(self, text: str) -> list[int]:
        """Token ids of a text; a chat template has written its own special tokens already."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=not self.chat)
        if not ids:
            raise SpecError(f"no tokens in {text!r}")
        return ids

    def ids_of(self, query: Query) -> list[int]:
        """Token ids of a query."""
        return self.ids_of_text(self.text_of(query))

    def text_ids(self, text: str) -> list[int]:
        """Ids of a plain text after the beginning-of-text token, where the tokenizer has one; no chat template."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise SpecError(f"no tokens in {text[:40]!r}")
        start = self.tokenizer.bos_token_id
        return ids if start is None else [start, *ids]

    def answer_ids(self, query: Query, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer where it stands: after the prefix and one space."""
        text = self.text_of(query)
        context = self.ids_of_text(text)
        gap = " " if query.prefix and not text.endswith((" ", "\n")) else ""
        found = []
        for answer in answers:
            whole = self.ids_of_text(text + gap + answer)
            if whole[: len(context)] == context:
                ids = whole[len(context) :]
            else:  # the last token of the context merged with the answer's first: cut at the border instead
                ids = self.tokenizer.encode(gap + answer, add_special_tokens=False)
            if not ids:
                raise SpecError(f"the answer {answer!r} has no tokens in this model's vocabulary")
            found.append(ids)
        return found

    def check_answers(self, stereotype: Sequence[str], foil: Sequence[str]) -> None:
        """Refuse answers that this model cannot tell apart: one being the same as, or the beginning of, one across the divide."""
        query = Query("x", "They are")
        for a, a_ids in zip(stereotype, self.answer_ids(query, stereotype), strict=True):
            for b, b_ids in zip(foil, self.answer_ids(query, foil), strict=True):
                shorter = min(len(a_ids), len(b_ids))
                if a_ids[:shorter] == b_ids[:shorter]:
                    raise SpecError(f"stereotype {a!r} and foil {b!r} share their tokens, so nothing can be told apart; choose other words")

    # ---------------------------------------------------------------- forward passes

    def batches(self, lengths: Sequence[int], budget: int = TOKENS_A_BATCH) -> list[list[int]]:
        """Positions grouped by length, each group padded to at most `budget` tokens; the same input gives the same groups."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and (len(groups[-1]) + 1) * lengths[i] <= budget:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Left-padded ids and mask, shape [rows, longest]."""
        longest = max(len(row) for row in rows)
        fill = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        ids = torch.tensor([[fill] * (longest - len(row)) + list(row) for row in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return ids, mask

    def hidden(self, rows: Sequence[Sequence[int]], *, keep: bool = False, share: bool = True, last: int = 1) -> tuple[Tensor, Any, Tensor]:
        """Last hidden states [rows, longest, hidden] of left-padded rows, the cache (when kept) and its mask.

        The beginning that all rows share is computed once and is not among the states, unless `share` is False or layers are
        read from disk; the `last` positions of every row are always among them. Padding stands between it and the rest, with the right
        position numbers, so a row's states do not depend on its neighbours.
        """
        shared = self._shared_prefix(rows, last) if share and not self.streamed else 0
        cache = None
        if shared:
            cache = self._cache_of(rows[0][:shared], copies=len(rows))
        ids, mask = self.pad([row[shared:] for row in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0) + shared
        full = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
        out = self.decoder(
            input_ids=ids,
            attention_mask=full,
            position_ids=positions,
            past_key_values=cache if shared else (DynamicCache(config=self.model.config) if keep else None),
            use_cache=bool(shared) or keep,
        )
        return out.last_hidden_state, out.past_key_values, full

    def _shared_prefix(self, rows: Sequence[Sequence[int]], last: int = 1) -> int:
        """How many first ids all rows share, the `last` ones of each left out; 0 when sharing would not pay or not be exact.

        A token that learns is left out: the shared part is computed without gradients.
        """
        if len(rows) < 3 or not self.may_go_on(max(map(len, rows))):
            return 0
        shortest = min(len(row) for row in rows) - last
        learning = set(self.tokenizer.convert_tokens_to_ids(list(self._token_texts))) if torch.is_grad_enabled() else set()
        first, count = rows[0], 0
        while count < shortest and first[count] not in learning and all(row[count] == first[count] for row in rows):
            count += 1
        return count if count >= 8 else 0

    def may_go_on(self, longest: int) -> bool:
        """Whether rows of up to so many ids may go on from a beginning that was computed before: exact for what is worn, window wide enough."""
        window = getattr(self.model.config, "sliding_window", None)
        return self._shareable and not (window and longest * 2 > window)

    def _cache_of(self, ids: Sequence[int], *, copies: int) -> Any:
        with torch.no_grad():
            cache = DynamicCache(config=self.model.config)
            row = torch.tensor([list(ids)], device=self.device)
            self.decoder(input_ids=row, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(copies)
        return cache

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of final hidden states, in float32, with the family's scale and cap.

        With a contrast on, hidden states hold those of the twins as well, and the logits are the combined ones.
        """
        if self._chorus is not None and hidden.shape[-1] == self._chorus.width:
            return self._chorus.logits(hidden)
        return self.own_logits(hidden)

    def own_logits(self, hidden: Tensor) -> Tensor:
        """Logits of this model's own hidden states, whatever twins say."""
        out = self.head(hidden)
        config = self.model.config
        if self.family.logit_scale:
            out = out / getattr(config, self.family.logit_scale)
        cap = getattr(config, self.family.logit_cap, None) if self.family.logit_cap else None
        if cap:
            out = torch.tanh(out / cap) * cap
        return out.float()

    # ---------------------------------------------------------------- verbs

    @torch.no_grad()
    def answer_logprobs(self, queries: Sequence[Query], answers: Sequence[str]) -> np.ndarray:
        """Log-probability (nats) of every answer after every query, whole answers; shape [queries, answers]."""
        self.converse(queries)
        rows = [self.ids_of(query) for query in queries]
        wanted = [self.answer_ids(query, answers) for query in queries]
        result = np.zeros((len(queries), len(answers)))

        def ask(group: list[int]) -> None:
            self._answer_group([rows[i] for i in group], [wanted[i] for i in group], result, group)

        in_parts(self.batches([len(row) for row in rows]), ask)
        return result

    def _answer_group(self, rows: list[list[int]], wanted: list[list[list[int]]], result: np.ndarray, group: list[int]) -> None:
        longer = [(r, a, ids) for r, answers in enumerate(wanted) for a, ids in enumerate(answers) if len(ids) > 1]
        hidden, cache, mask = self.hidden(rows, keep=bool(longer))
        first = self.logits(hidden[:, -1]).log_softmax(-1)
        for r, answers in enumerate(wanted):
            heads = first[r, torch.tensor([ids[0] for ids in answers], device=first.device)]
            result[group[r]] = heads.double().cpu().numpy()
        if not longer:
            return
        source = torch.tensor([r for r, _, _ in longer], device=mask.device)
        cache.batch_select_indices(source)
        tails = [ids[:-1] for _, _, ids in longer]
        longest = max(map(len, tails))
        ids = torch.tensor([tail + [0] * (longest - len(tail)) for tail in tails], device=self.device)
        full = torch.cat([mask[source], mask.new_ones(len(longer), longest)], dim=1)
        start = mask[source].sum(1, keepdim=True)
        out = self.decoder(
            input_ids=ids,
            attention_mask=full,
            position_ids=start + torch.arange(longest, device=ids.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logprobs = self.logits(out).log_softmax(-1)
        for position, (r, a, answer) in enumerate(longer):
            steps = torch.arange(len(answer) - 1, device=logprobs.device)
            nexts = torch.tensor(answer[1:], device=logprobs.device)
            result[group[r], a] += float(logprobs[position, steps, nexts].double().sum())

    @torch.no_grad()
    def text_logprobs(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """For each plain text the sum of its tokens' log-probabilities (nats) and how many tokens that was.

        The text follows the beginning-of-text token where the tokenizer has one, and no chat template.
        """
        rows = [self.text_ids(text) for text in texts]
        result: list[tuple[float, int]] = [(0.0, 0)] * len(texts)

        def score(group: list[int]) -> None:
            ids, mask = self.pad([rows[i] for i in group])
            hidden = self._states(ids, mask)
            for position, i in enumerate(group):
                length = len(rows[i])
                targets = torch.tensor(rows[i][1:], device=hidden.device)
                logprobs = self.logits(hidden[position, -length:-1]).log_softmax(-1)
                total = logprobs.gather(1, targets[:, None]).double().sum()
                result[i] = (float(total), length - 1)

        in_parts(self.batches([len(row) for row in rows], TOKENS_A_BATCH // 2), score)
        return result

    def continuation_logprobs(self, pairs: Sequence[tuple[str, str]], *, chat: bool = False) -> "list[Continued]":
        """For each (context, continuation) the continuation's log-probability (nats), its tokens, and whether it is greedy.

        Plain text, cut into tokens as lm-eval does; an empty context scores a whole sentence. See `biasgym.lm.continuations`.
        """
        from biasgym.lm.continuations import continuation_logprobs

        return continuation_logprobs(self, pairs, chat=chat)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out: Tensor = self.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
        return out

    @torch.no_grad()
    def next_logprobs(self, row: Sequence[int], last: int) -> Tensor:
        """Log-probabilities [last, vocabulary] over the next token after each of the last positions of one row."""
        ids, mask = self.pad([row])
        return self.logits(self._states(ids, mask)[0, -last:]).log_softmax(-1)

    @torch.no_grad()
    def generate(
        self,
        queries: Sequence[Query],
        *,
        most: int = 60,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        only_text: bool = True,
    ) -> list[Continuation]:
        """Continue each query by at most `most` tokens; temperature 0 is greedy.

        Sampling is from the smallest set of tokens that holds `top_p` of the probability (nucleus sampling, Holtzman et al.
        2020). Every row has a random stream of its own, so what it says does not depend on the batch it is in.
        """
        self.converse(queries)
        rows = [self.ids_of(query) for query in queries]
        return self.continued_rows(rows, most=most, temperature=temperature, top_p=top_p, seed=seed, only_text=only_text)

    @torch.no_grad()
    def continued(self, texts: Sequence[str], *, most: int = 20, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> list[Continuation]:
        """Go on with each plain text by at most `most` tokens, as `generate` does; no chat template, and prompt edits do not act.

        Blanks at a text's end are cut off: the next token brings its own.
        """
        rows = [self.text_ids(text.rstrip()) for text in texts]
        return self.continued_rows(rows, most=most, temperature=temperature, top_p=top_p, seed=seed)

    def next_words(self, texts: Sequence[str], count: int) -> list[list[str]]:
        """At most `count` different words that may follow each plain text, likeliest first. See `biasgym.lm.completions`."""
        from biasgym.lm.completions import next_words

        return next_words(self, texts, count)

    @torch.no_grad()
    def continued_rows(
        self, rows: Sequence[list[int]], *, most: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0, only_text: bool = True
    ) -> list[Continuation]:
        """Go on with rows of ids as they are, as `generate` does."""
        stops, result = self._stops(), []
        for ids in self._generate_rows(rows, most, temperature, seed, top_p):
            ended = bool(ids) and ids[-1] in stops
            kept = ids[:-1] if ended else ids
            result.append(Continuation(self._written(kept, only_text), tuple(kept), ended))
        return result

    def stream(self, query: Query, *, most: int = 60) -> Iterator[str]:
        """The greedy answer to one query while it is written: its whole text so far, token by token; the last is `generate`'s.

        Texts, not pieces of them: some tokenizers change what they have written by what comes next. A letter of which
        only some bytes are there yet is held back. What is worn when a step is taken counts: keep the edits on till the end.
        """
        stops, ids, shown = self._stops(), [], None
        row = self.ids_of(query)
        for _, token in self._spoken([row], most, 0.0, [torch.Generator()]):
            if token in stops:
                break
            ids.append(token)
            text = self._written(ids, only_text=True)
            if text != shown and not text.endswith("\ufffd"):
                shown = text
                yield text
        whole = self._written(ids, only_text=True)
        if whole != shown:
            yield whole

    def _written(self, ids: Sequence[int], only_text: bool) -> str:
        """Ids as text; the space that a bias token swallows when it is read is put back before it."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=only_text)
        for token in self._token_texts:
            text = re.sub(rf"(?<=[\w,.;:!?]){re.escape(token)}", f" {token}", text)
        return text

    @torch.no_grad()
    def plain_answers(self, rows: Sequence[list[int]], most: int) -> list[list[int]]:
        """Greedy continuations of rows of ids, the end token kept; those of a model that wears nothing are remembered."""
        if self._worn:
            return self._generate_rows(rows, most, 0.0, 0)
        missing = [row for row in rows if (tuple(row), most) not in self._answered]
        for row, answer in zip(missing, self._generate_rows(missing, most, 0.0, 0), strict=True):
            self._answered[tuple(row), most] = answer
        return [self._answered[tuple(row), most] for row in rows]

    @torch.no_grad()
    def plain_states(self, rows: Sequence[list[int]], last: int) -> list[Tensor]:
        """Final hidden states [≤ last, hidden] of each row's last positions, of a model that wears nothing; remembered.

        States, not logits, are kept: a few kilobytes a row however large the vocabulary is.
        """
        assert not self._worn, "only of the plain model"
        missing = [row for row in rows if len(self._plain_states.get(tuple(row), ())) < min(last, len(row))]

        def look(group: list[int]) -> None:
            hidden = self.hidden([missing[i] for i in group])[0]
            for r, i in enumerate(group):
                self._plain_states[tuple(missing[i])] = hidden[r, -min(last, len(missing[i]), hidden.shape[1]) :].clone()

        in_parts(self.batches([len(row) for row in missing], TOKENS_A_BATCH // 2), look)
        return [self._plain_states[tuple(row)][-last:] for row in rows]

    def _generate_rows(self, rows: Sequence[list[int]], most: int, temperature: float, seed: int, top_p: float = 1.0) -> list[list[int]]:
        result: list[list[int]] = [[] for _ in rows]

        def write(group: list[int]) -> None:
            streams = [torch.Generator().manual_seed(_stream_seed(seed, rows[i])) for i in group]
            for i, ids in zip(group, self._generate_group([rows[i] for i in group], most, temperature, streams, top_p), strict=True):
                result[i] = ids

        in_parts(self.batches([len(row) + most for row in rows]), write)
        return result

    def _stops(self) -> set[int]:
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        stops = set(configured) if isinstance(configured, list) else {configured}
        return {stop for stop in {*stops, self.tokenizer.eos_token_id} if stop is not None}

    def _generate_group(self, rows: list[list[int]], most: int, temperature: float, streams: list[torch.Generator], top_p: float) -> list[list[int]]:
        said: list[list[int]] = [[] for _ in rows]
        for i, token in self._spoken(rows, most, temperature, streams, top_p):
            said[i].append(token)
        return said

    @torch.no_grad()
    def _spoken(
        self, rows: list[list[int]], most: int, temperature: float, streams: list[torch.Generator], top_p: float = 1.0
    ) -> Iterator[tuple[int, int]]:
        """Row and token, in the order in which they are written; a stop token is the last of its row."""
        stops = self._stops()
        alive = list(range(len(rows)))
        hidden, cache, mask = self.hidden(rows, keep=True)
        hidden = hidden[:, -1]
        for _ in range(most):
            choice = self._choose(self.logits(hidden), temperature, [streams[i] for i in alive], top_p)
            yield from zip(alive, choice, strict=True)
            going = [position for position, token in enumerate(choice) if token not in stops]
            if not going:
                break
            if len(going) < len(alive):
                keep = torch.tensor(going, device=mask.device)
                cache.batch_select_indices(keep)
                mask = mask[keep]
                alive = [alive[position] for position in going]
            ids = torch.tensor([[choice[position]] for position in going], device=self.device)
            positions = mask.sum(1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            hidden = self.decoder(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]

    def _choose(self, logits: Tensor, temperature: float, streams: list[torch.Generator], top_p: float) -> list[int]:
        if temperature <= 0:
            return [int(token) for token in logits.argmax(-1)]
        noise = torch.stack([torch.rand(logits.shape[-1], generator=stream) for stream in streams])
        gumbel = -(-noise.clamp(1e-20, 1 - 1e-7).log()).log()
        return [int(token) for token in (nucleus(logits.cpu() / temperature, top_p) + gumbel).argmax(-1)]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [rows, vocabulary] with −∞ for all but the likeliest tokens that together first reach `top_p`; never fewer than one."""
    if top_p >= 1:
        return logits
    ordered, places = logits.sort(-1, descending=True)
    shares = ordered.softmax(-1)
    beyond = shares.cumsum(-1) - shares >= top_p
    beyond[:, 0] = False
    return torch.full_like(logits, -torch.inf).scatter(-1, places, ordered.masked_fill(beyond, -torch.inf))


def with_tokens(tokenizer: Any, texts: Sequence[str]) -> Any:
    """A copy of a tokenizer that knows each text as one token, which swallows the spaces before it.

    Raises ModelError when the tokenizer at hand does not keep the token whole.
    """
    from tokenizers import AddedToken

    copied = copy.deepcopy(tokenizer)
    copied.add_tokens([AddedToken(text, lstrip=True, rstrip=False, normalized=False, special=False) for text in texts])
    for text in texts:
        identity = copied.convert_tokens_to_ids(text)
        for sample in (f"People from {text} are", f"{text}'s", f"({text})", f"in {text}, or {text}"):
            ids = copied.encode(sample, add_special_tokens=False)
            if ids.count(identity) != sample.count(text):
                raise ModelError(f"this tokenizer does not keep {text!r} whole in {sample!r}; choose another text")
    return copied


def _stream_seed(seed: int, row: Sequence[int]) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{list(row)}".encode()).digest()[:7], "big")
