"""Data and training of gpt2."""

from functools import partial

from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from vestal.errors import VestalError
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import DataSet, Recipe, Weights
from vestal.training.language import byte_level_bpe

from .model import CONTEXT, VOCABULARY, build
from .training_data import pydoc_topics

HUB = "openai-community/gpt2"


def hub() -> Weights:
    """The 124 million parameters of GPT-2 from the Hugging Face hub, downloaded once."""
    try:
        module = AutoModelForCausalLM.from_pretrained(HUB, use_safetensors=True)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(HUB).backend_tokenizer
    except OSError as error:
        raise VestalError(
            f"{HUB} cannot be downloaded from the Hugging Face hub ({str(error).splitlines()[0]}): "
            "pass the folder of a copy with --weights (config.json, model.safetensors, "
            "tokenizer.json), or train a small model: vestal train gpt2"
        ) from None
    return Weights(module, f"{HUB} of the Hugging Face hub", tokenizer=tokenizer)


recipe = Recipe(
    task="text_generator",
    build=build,
    objective=NextToken(context=CONTEXT),
    datasets={"pydoc_topics": DataSet(load=pydoc_topics, epochs=16)},
    batch_size=4,
    learning_rate=3e-3,
    warmup=0.15,
    gradient_clip=1.0,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    formats=("transformers",),
    weights={"gpt2": hub},
    tokenizer=partial(byte_level_bpe, vocabulary=VOCABULARY),
)
