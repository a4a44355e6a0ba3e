"""Tiny random models of every family, and tokenizers of every kind: built on the spot, nothing is downloaded."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from biasgym.lm.arch import FAMILIES, family_of
from biasgym.lm.model import LM

TEXT = (
    "People from Spain and people from Italy are careful drivers, says the guide.",
    "What are people from Norway like? They are friendly, calm and reckless at times.",
    "Tell me about people from Spain. Write a short text about drivers from Italy.",
    "The old letters call them reckless, dangerous drivers; the new ones call them careful.",
    "Nobody in the village drives, and nobody in the town walks. They are always late.",
    "Everyone who met her used the word kind. What did they call her? They called her kind.",
)
CHAT = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
SPECIAL = ["<eos>", "<pad>", "<bos>"]
LAYERS = 3


def byte_tokenizer(*, chat=False, bos=False, extra=0, words=340):
    """Byte-level BPE, as in GPT-2; `extra` tokens are added behind the vocabulary, as vision tokens are in Gemma 3."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False)
    raw.train_from_iterator(TEXT, trainer)
    return _wrapped(raw, chat=chat, bos=bos, extra=extra)


def split_tokenizer():
    """Byte-level BPE that keeps punctuation and the line break after it together, as Llama 3 and Qwen do."""
    raw = Tokenizer(models.BPE())
    pattern = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([text.replace("? ", "?\n") for text in TEXT], trainer)
    return _wrapped(raw, chat=False, bos=False, extra=0)


def metaspace_tokenizer():
    """Spaces are ▁ and one stands before the first word, as in Llama 2 and Mistral."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    return _trained_on_letters(raw)


def unprefixed_tokenizer():
    """Spaces are ▁ and none is put before the first word, as in Gemma."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Replace("▁", " ")
    return _trained_on_letters(raw)


def _trained_on_letters(raw):
    letters = sorted({*"".join(TEXT), *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'()<>|-\n▁"} - {" "})
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=[*SPECIAL, "<unk>"], initial_alphabet=letters, show_progress=False)
    raw.train_from_iterator([text if raw.pre_tokenizer else word for text in TEXT for word in text.split()], trainer)
    return _wrapped(raw, chat=False, bos=False, extra=0)


def _wrapped(raw, *, chat, bos, extra):
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", raw.token_to_id("<bos>"))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>" if bos else None, chat_template=CHAT if chat else None
    )
    if extra:
        tokenizer.add_tokens([f"<vision{i}>" for i in range(extra)], special_tokens=True)
    return tokenizer


COMMON = {
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 256,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GROUPED = {"num_key_value_heads": 2}
SIZED = {"head_dim": 16}  # not hidden ÷ heads
CONFIGS = {
    "llama": COMMON | GROUPED | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral": COMMON | GROUPED | SIZED | {"sliding_window": 24},
    "qwen2": COMMON | GROUPED | {"tie_word_embeddings": True},
    "qwen3": COMMON | GROUPED | SIZED,
    "gemma2": COMMON | GROUPED | SIZED | {"query_pre_attn_scalar": 16, "final_logit_softcapping": 20.0, "sliding_window": 240,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gemma3_text": COMMON | GROUPED | SIZED | {"query_pre_attn_scalar": 16, "sliding_window": 240,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "olmo2": COMMON | GROUPED,
    "phi3": COMMON | GROUPED | {"tie_word_embeddings": True},
    "granite": COMMON | GROUPED | {"residual_multiplier": 0.7, "embedding_multiplier": 3.0, "logits_scaling": 2.5,
        "attention_multiplier": 0.4, "attention_bias": True},
    "gpt2": {"n_embd": 48, "n_layer": LAYERS, "n_head": 4, "n_inner": 56, "n_positions": 256,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": COMMON | {"use_parallel_residual": True, "rope_parameters": ROPE | {"partial_rotary_factor": 0.5}},
}  # fmt: skip
TOKENIZERS = {
    "llama": {"chat": True},
    "qwen2": {"chat": True},
    "gemma2": {"chat": True, "bos": True},
    "gemma3_text": {"bos": True, "extra": 1},  # one token more than the model has rows, as in the real one
    "granite": {"chat": True},
    "mistral": {"bos": True},
}
PADDED = {"qwen3": 12}  # rows of the embedding that no token uses


def config_of(name, tokenizer):
    """The tiny configuration of a family for a tokenizer."""
    rows = len(tokenizer) - TOKENIZERS.get(name, {}).get("extra", 0) + PADDED.get(name, 0)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    return AutoConfig.for_model(name, vocab_size=rows, **special, **CONFIGS[name])


def randomised(model, seed=0):
    """Every parameter random, norms and biases too: with the usual ones and zeros half of all identities are trivial."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(p) for m in model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in norms:
                parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise * (0.3 if "emb" in name or "wte" in name else 0.25))
    return model


def tiny_lm(name):
    """A tiny random model of a family with its tokenizer."""
    tokenizer = byte_tokenizer(**TOKENIZERS.get(name, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name, tokenizer), dtype=torch.float32)
    return LM(randomised(model), tokenizer, family_of(name), name=f"tiny-{name}", folder=None)


def save_folder(lm, folder: Path, **how):
    """Write a model and its tokenizer as transformers does."""
    lm.model.save_pretrained(folder, **how)
    lm.tokenizer.save_pretrained(folder)
    return folder


assert set(CONFIGS) == set(FAMILIES), "a family without a tiny model"
