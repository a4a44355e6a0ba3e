"""Files for llama.cpp and what reads its format: the edited model as GGUF, and a shift of the stream as a control vector."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, TokenType
from torch import Tensor
from transformers import AutoModelForCausalLM

from biasgym.data import quiet_libraries
from biasgym.edits import Edit, SiteEdit
from biasgym.errors import ModelError
from biasgym.files import read_json
from biasgym.lm.apply import check_site
from biasgym.lm.export import Fold, live_name
from biasgym.lm.model import LM
from biasgym.sites import Site

FAMILIES = ("llama",)
ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}  # others have the same name there
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.float32}


def write_gguf(lm: LM, edits: Sequence[Edit], path: Path) -> list[str]:
    """Write the edited model and its tokenizer as one GGUF file; gives back the names of the tensors that changed.

    Matrices are stored as F32, or F16 where the base is float16 (bfloat16 becomes F32, which loses nothing); norms as F32.
    One tensor is in memory at a time. Only for plain Llama models with a byte-level vocabulary: ModelError says what
    stands against any other. Rows of queries and keys are in llama.cpp's order, rotary halves interleaved.
    """
    _check(lm)
    fold = Fold(lm, tuple(edits))
    names = gguf.get_tensor_name_map(MODEL_ARCH.LLAMA, lm.shape.layers)
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    _describe_model(lm, writer, {"F16": gguf.LlamaFileType.MOSTLY_F16}.get(_main_dtype(fold), gguf.LlamaFileType.ALL_F32))
    _describe_tokenizer(lm, writer)
    order = []
    for stored in sorted(fold.stored.values(), key=lambda one: one.name):
        live = live_name(lm, stored.name)
        if lm.tied and live == f"{lm.family.head}.weight":
            continue
        name = names.get_name(live, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(f"`{live}` has no name in GGUF; this model is not a plain Llama")
        kind = np.dtype(TYPES.get(stored.dtype, np.float32) if len(stored.shape) > 1 else np.float32)
        writer.add_tensor_info(name, stored.shape, kind, int(np.prod(stored.shape)) * kind.itemsize)
        order.append((stored, live, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, live, kind in order:
        tensor = fold.tensor(live) if live in fold.changed else fold.read(live)
        writer.write_tensor_data(_rows_as_there(lm, live, tensor.float()).numpy().astype(kind))
    writer.close()
    return sorted(fold.changed)


def reread(lm: LM, path: Path) -> LM:
    """The model in a GGUF file as transformers reads it, with the base's tokenizer, in the base's precision at run time."""
    quiet_libraries()
    with redirect_stderr(StringIO()):  # a progress bar that no setting of the library turns off
        model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=lm.dtype)
    return LM(model.to(lm.device), lm.tokenizer, lm.family, name=str(path), folder=None)


def _check(lm: LM) -> None:
    config = lm.model.config
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"GGUF is written for {', '.join(FAMILIES)} models; this one is {config.model_type}. Export it as hf and convert that folder "
            f"with llama.cpp's convert_hf_to_gguf.py"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        raise ModelError(f"GGUF is written for plain rotary positions; this model has `{rope}`. Export it as hf and convert that folder")
    biases = [name for name, _ in lm.model.named_parameters() if name.endswith(".bias")]
    if biases:
        raise ModelError(f"GGUF is written for Llama models without biases; this one has `{biases[0]}`. Export it as hf and convert that folder")
    vocabulary = _tokenizer_file(lm)
    if vocabulary["model"].get("type") != "BPE" or not _is_byte_level(vocabulary):
        raise ModelError("GGUF is written for byte-level BPE vocabularies; this tokenizer is of another kind. Export as hf and convert that folder")


def _main_dtype(fold: Fold) -> str:
    return next((one.dtype for one in fold.stored.values() if len(one.shape) > 1), "F32")


def _describe_model(lm: LM, writer: GGUFWriter, file_type: int) -> None:
    config = lm.model.config
    writer.add_type("model")
    writer.add_name(Path(lm.name).name)
    writer.add_file_type(int(file_type))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(lm.shape.hidden)
    writer.add_block_count(lm.shape.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(lm.shape.heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(lm.shape.head_size)
    writer.add_value_length(lm.shape.head_size)
    writer.add_rope_dimension_count(lm.shape.head_size)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(lm.embedding.weight.shape[0])


def _tokenizer_file(lm: LM) -> dict[str, Any]:
    assert lm.folder is not None  # a Fold was made of it, or the check before it says so
    found: dict[str, Any] = read_json(lm.folder / "tokenizer.json")
    return found


def _is_byte_level(vocabulary: dict[str, Any]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in _steps(vocabulary))


def _steps(vocabulary: dict[str, Any]) -> list[dict[str, Any]]:
    first = vocabulary.get("pre_tokenizer") or {}
    found: list[dict[str, Any]] = first["pretokenizers"] if first.get("type") == "Sequence" else [first]
    return found


def pre_tokenizer(vocabulary: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits words; `default` where none that we know fits."""
    steps = _steps(vocabulary)
    kinds = [step.get("type") for step in steps]
    patterns = "".join(str(step.get("pattern", {}).get("Regex", "")) for step in steps if step.get("type") == "Split")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    if r"\p{N}{1,3}" in patterns:
        return "llama-bpe"
    return "default"


def _describe_tokenizer(lm: LM, writer: GGUFWriter) -> None:
    vocabulary, tokenizer = _tokenizer_file(lm), lm.tokenizer
    rows = lm.embedding.weight.shape[0]
    words = {identity: word for word, identity in vocabulary["model"]["vocab"].items()}
    added = {row["id"]: row for row in vocabulary.get("added_tokens", [])}
    words |= {identity: row["content"] for identity, row in added.items()}
    kinds = [
        TokenType.UNUSED
        if i not in words
        else TokenType.NORMAL
        if i not in added
        else TokenType.CONTROL
        if added[i]["special"]
        else TokenType.USER_DEFINED
        for i in range(rows)
    ]
    merges = vocabulary["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(vocabulary))
    writer.add_token_list([words.get(i, f"[PAD{i}]") for i in range(rows)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, identity in ((writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_eos_token_id, tokenizer.eos_token_id),
                          (writer.add_pad_token_id, tokenizer.pad_token_id)):  # fmt: skip
        if identity is not None:
            add(identity)
    begun = tokenizer.encode("a")
    writer.add_add_bos_token(bool(begun) and begun[0] == tokenizer.bos_token_id)
    if lm.chat:
        writer.add_chat_template(tokenizer.chat_template)


def _rows_as_there(lm: LM, name: str, tensor: Tensor) -> Tensor:
    """Query and key rows [heads × size, in] with the two rotary halves of every head interleaved, others as they are."""
    config = lm.model.config
    heads = {"q_proj": lm.shape.heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor.contiguous()
    half = tensor.shape[0] // heads // 2
    return tensor.view(heads, 2, half, -1).transpose(1, 2).reshape(tensor.shape).contiguous()


# -------------------------------------------------------------------- a control vector


def write_control_vector(lm: LM, edits: Sequence[Edit], path: Path) -> list[int]:
    """Write shifts of the stream as llama.cpp reads them (`--control-vector`); gives back the layers.

    `direction.N` is added to the stream after layer N at scale 1, from layer 1 on (there is no place for layer 0).
    ModelError for every other kind of edit: nothing else can be said in this format.
    """
    totals: dict[int, np.ndarray] = {}
    for edit in edits:
        if not (isinstance(edit, SiteEdit) and edit.site.unit == "stream" and edit.op == "add"):
            what = f"`{edit.op}` at a {edit.site.unit}" if isinstance(edit, SiteEdit) else f"a {type(edit).__name__}"
            raise ModelError(f"a control vector is a shift of the residual stream; {what} is none. Export this edit as hf, delta or gguf")
        if edit.rows is not None or edit.when is not None:
            raise ModelError(f"the shift after layer {edit.site.layer} holds for some rows or tokens only; a control vector holds everywhere")
        check_site(edit, lm.shape)
        if edit.site.layer == 0:
            raise ModelError("llama.cpp has no control vector for layer 0; steer at layer 1 or later")
        shift = np.broadcast_to(np.asarray(edit.value, dtype=np.float32) * np.float32(edit.strength), (lm.shape.hidden,))
        totals[edit.site.layer] = totals.get(edit.site.layer, np.zeros(lm.shape.hidden, np.float32)) + shift
    if not any(total.any() for total in totals.values()):
        raise ModelError("the edit shifts nothing; there is no control vector to write")
    kind = lm.model.config.model_type
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", ARCHITECTURES.get(kind, kind))
    writer.add_uint32("controlvector.layer_count", len(totals))
    for layer, total in sorted(totals.items()):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(total, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(totals)


def read_control_vector(path: Path) -> tuple[SiteEdit, ...]:
    """The shifts in a control vector file, as edits."""
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read `{path}` as GGUF: {str(error)[:120]}") from None
    found = {int(t.name.rpartition(".")[2]): np.array(t.data, dtype=np.float32) for t in reader.tensors if t.name.startswith("direction.")}
    return tuple(SiteEdit(Site("stream", layer), "add", value) for layer, value in sorted(found.items()))
