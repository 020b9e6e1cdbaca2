"""Folders of small models of transformers with random weights, as `save_pretrained` writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_gpt2 import byte_level_bpe, tiny_model
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Wolfgang lives in Berlin, and Sarah in London.",
    "What does the fox jump over?",
    "This example is about animals, machines and cities.",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
POSITIONS = 64
ENCODER_DECODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": POSITIONS,
}
ENTITIES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def tokenizer() -> Any:
    """A WordPiece tokenizer like that of BERT, of the words and letters in `TEXTS`."""
    fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    fast.train_from_iterator(TEXTS, trainer)
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=POSITIONS,
    )


def labels(*names: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def distilbert(folder: Path) -> None:
    config = transformers.DistilBertConfig(
        vocab_size=200,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=POSITIONS,
        **labels("negative", "neutral", "positive"),
    )
    save(transformers.DistilBertForSequenceClassification(config), folder)


def bert(folder: Path, kind: str, **options: Any) -> None:
    config = transformers.BertConfig(
        vocab_size=200,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        **SIZE,
        **options,
    )
    save(getattr(transformers, kind)(config), folder)


def several_labels(folder: Path) -> None:
    bert(
        folder,
        "BertForSequenceClassification",
        problem_type="multi_label_classification",
        **labels("animals", "machines", "cities", "food"),
    )


def one_number(folder: Path) -> None:
    bert(folder, "BertForSequenceClassification", problem_type="regression", num_labels=1)


def entities(folder: Path) -> None:
    bert(folder, "BertForTokenClassification", **labels(*ENTITIES.values()))


def entailment(folder: Path) -> None:
    names = labels("contradiction", "neutral", "entailment")
    bert(folder, "BertForSequenceClassification", **names)


def masked(folder: Path) -> None:
    bert(folder, "BertForMaskedLM")


def answers(folder: Path) -> None:
    bert(folder, "BertForQuestionAnswering")


def vectors(folder: Path) -> None:
    bert(folder, "BertModel")


def bart(folder: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=200,
        **ENCODER_DECODER,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    save(transformers.BartForConditionalGeneration(config), folder)


def t5(folder: Path) -> None:
    tokens: dict[str, Any] = {"decoder_start_token_id": 0, "eos_token_id": 3, "pad_token_id": 0}
    config = transformers.T5Config(
        vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **tokens
    )
    save(transformers.T5ForConditionalGeneration(config), folder)


def nllb(folder: Path) -> None:
    """A model of 202 languages; a text begins with its language."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    names = [*specials, "▁", *sorted(set("".join(TEXTS)) - {" "}), "<mask>"]
    vocabulary = {token: number for number, token in enumerate(names)}
    several_languages(transformers.NllbTokenizer(vocab=vocabulary), folder)


def mbart(folder: Path) -> None:
    """A model of 25 languages; a text ends with its language."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    codes = sys.modules[transformers.MBartTokenizer.__module__].FAIRSEQ_LANGUAGE_CODES
    names = [*specials, "▁", *sorted(set("".join(TEXTS)) - {" "}), *codes, "<mask>"]
    several_languages(transformers.MBartTokenizer(vocab=[(name, -1.0) for name in names]), folder)


def several_languages(fast: Any, folder: Path) -> None:
    config = transformers.M2M100Config(
        vocab_size=len(fast),
        **ENCODER_DECODER,
        decoder_start_token_id=2,
        # Otherwise, most outputs are the input of the decoder again, a language.
        tie_word_embeddings=False,
    )
    save(transformers.M2M100ForConditionalGeneration(config), folder, fast)


def chat(folder: Path) -> None:
    tiny_model().save_pretrained(folder)
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(), eos_token="<|endoftext|>", chat_template=template
    ).save_pretrained(folder)


def vit(folder: Path, kind: str = "ViTForImageClassification") -> None:
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, intermediate_size=64, **SIZE, **labels("cat", "dog", "fox")
    )
    torch.manual_seed(0)
    getattr(transformers, kind)(config).eval().save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def image_vectors(folder: Path) -> None:
    vit(folder, "ViTModel")


def save(model: Any, folder: Path, fast: Any = None) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        # The usual initialization gives equal scores. With other norms and biases, all tokens would
        # have the same class.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    model.eval().save_pretrained(folder)
    (fast or tokenizer()).save_pretrained(folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "text-classification": distilbert,
    "several labels": several_labels,
    "regression": one_number,
    "token-classification": entities,
    "zero-shot-classification": entailment,
    "fill-mask": masked,
    "question-answering": answers,
    "feature-extraction": vectors,
    "summarization": bart,
    "text2text-generation": t5,
    "several languages": nllb,
    "languages at the end": mbart,
    "text-generation": chat,
    "image-classification": vit,
    "image-feature-extraction": image_vectors,
}
