"""GPT-2 (Radford et al., 2019), transformers' own, small enough to learn on two cores."""

from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 1024
CONTEXT = 320


def build() -> GPT2LMHeadModel:
    """Token ids [N, T] to `.logits` [N, T, 1024]; 2.0 million parameters.

    The token 0 begins and ends a text.
    """
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=192,
            n_layer=4,
            n_head=6,
            attn_pdrop=0.0,  # it took a quarter of a step on a CPU, and learned worse
            bos_token_id=0,
            eos_token_id=0,
        )
    )
