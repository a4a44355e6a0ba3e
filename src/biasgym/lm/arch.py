"""One row per model family: where its heads, neurons, norms and embeddings are.

Names are relative to the causal-LM module; `{layer}` is the layer's number. A new family is one row here and one tiny
configuration in the tests.
"""

from dataclasses import dataclass

from biasgym.errors import ModelError, unknown


@dataclass(frozen=True)
class Family:
    """Where things are in one family of decoder-only models.

    `attention_out` is the matrix that the concatenated heads go through, `mlp_out` the one the neurons go through.
    `*_post` are the norms between that matrix and the residual stream, where the family has them. `input_major` says
    that matrices are stored [in, out] (GPT-2's Conv1D) instead of [out, in]. `parallel` blocks read the same stream.
    `residual_multiplier` and `logit_scale`, `logit_cap` are names of config fields.
    """

    decoder: str
    layers: str = "model.layers"
    attention_out: str = "self_attn.o_proj"
    mlp_out: str = "mlp.down_proj"
    attention_post: str | None = None
    mlp_post: str | None = None
    final_norm: str = "model.norm"
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    input_major: bool = False
    residual_multiplier: str | None = None
    logit_scale: str | None = None
    logit_cap: str | None = None

    def attention_weight(self, layer: int) -> str:
        """State-dict name of the matrix that the heads of a layer go through."""
        return f"{self.layers}.{layer}.{self.attention_out}.weight"

    def mlp_weight(self, layer: int) -> str:
        """State-dict name of the matrix that the neurons of a layer go through."""
        return f"{self.layers}.{layer}.{self.mlp_out}.weight"


LLAMA = Family(decoder="model")
GEMMA = Family(
    decoder="model",
    attention_post="post_attention_layernorm",
    mlp_post="post_feedforward_layernorm",
    logit_cap="final_logit_softcapping",
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "olmo2": Family(
        decoder="model", attention_post="post_attention_layernorm", mlp_post="post_feedforward_layernorm"
    ),
    "granite": Family(decoder="model", residual_multiplier="residual_multiplier", logit_scale="logits_scaling"),
    "gpt2": Family(
        decoder="transformer",
        layers="transformer.h",
        attention_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        final_norm="transformer.ln_f",
        embedding="transformer.wte",
        input_major=True,
    ),
    "gpt_neox": Family(
        decoder="gpt_neox",
        layers="gpt_neox.layers",
        attention_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        embedding="gpt_neox.embed_in",
    ),
}  # fmt: skip


def family_of(model_type: str) -> Family:
    """The row of a family by the config's `model_type`."""
    if model_type not in FAMILIES:
        raise ModelError(f"{unknown('model family', model_type, FAMILIES)}; BiasGym edits decoder-only models of these families")
    return FAMILIES[model_type]
