"""Compare the small GPT-2 with an interpolated bigram model on the same held-out tokens.

    .venv/bin/python -m benchmarks.perplexity [RUN]

RUN is a folder of `vestal train gpt2`, by default the newest in `runs/gpt2/`. Both models get the
same tokens of the same passages; the first token of a passage is not scored.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from vestal.model_folders import find_model
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import latest_run
from vestal.training.language import module_scorer, perplexity, texts_of
from vestal_handlers.model_files import load_module

project = Project.here()
run = Path(sys.argv[1]) if len(sys.argv) > 1 else latest_run(project, "gpt2")
splits = load_recipe(project, "gpt2").splits(None)
tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
module = AutoModelForCausalLM.from_pretrained(run).eval()
passages = texts_of(splits.test)
train, test = (
    [tokenizer.encode(text).ids for text in texts] for texts in (texts_of(splits.train), passages)
)
baseline = load_module(find_model(project, "gpt2"), "training_baseline")
ours = perplexity(module_scorer(module, tokenizer)(passages))
bigram = baseline.perplexity(train, test, tokenizer.get_vocab_size())
print(
    json.dumps(
        {
            "run": str(run),
            "passages": len(test),
            "tokens": sum(map(len, test)),
            "gpt2": round(ours, 2),
            "bigram": round(bigram, 2),
            "ratio": round(ours / bigram, 3),
        }
    )
)
