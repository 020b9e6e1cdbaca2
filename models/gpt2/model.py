"""A GPT-2 of transformers (Radford et al., 2019), small enough to train on two cores."""

from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 1024
CONTEXT = 320


def build() -> GPT2LMHeadModel:
    """Token ids [N, T] to `.logits` [N, T, 1024]; 2.0 million parameters.

    Token 0 begins and ends every text.
    """
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=192,
            n_layer=4,
            n_head=6,
            attn_pdrop=0.0,  # dropout took a quarter of a step on a CPU and gave a higher loss
            bos_token_id=0,
            eos_token_id=0,
        )
    )
