"""Tokens per second of text generation with GPT-2's architecture (124 M, random weights).

    naive 1         batch 1, greedy, without key-value cache
    transformers 8  `model.generate` with its cache, batch 8, greedy
    vestal 1, 8     the handler's loop, greedy
    vestal 8 mixed  the handler's loop; temperature, top-k, top-p and seed differ by row
    int8 1, 8       the handler's loop, greedy, with the layers in int8

All variants run in turn on the same prompts, after a warm-up round. The tokens of the greedy
variants must be equal. Rows are written to results/.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from vestal_handlers.text.generation import GeneratedSequence, generate
from vestal_handlers.text.int8_weights import quantize
from vestal_handlers.text.sampling import Sampler, Sampling

SEED, BATCH, PROMPT_TOKENS = 0, 8, 32
TARGET = 10  # times the naive loop's tokens per second (issue 4)
Tokens = list[list[int]]


def naive(model: GPT2LMHeadModel, prompts: Tokens, count: int) -> Tokens:
    ids = torch.tensor(prompts)
    for _ in range(count):
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, PROMPT_TOKENS:].tolist()


def peer(model: Any, prompts: Tokens, count: int) -> Tokens:
    ids = torch.tensor(prompts)
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return found[:, PROMPT_TOKENS:].tolist()


def ours(model: GPT2LMHeadModel, prompts: Tokens, count: int, *, mixed: bool = False) -> Tokens:
    samplings = [Sampling(0.7 + index / 10, 40 * (index % 2), 0.9, index) for index in range(BATCH)]
    samplers = [Sampler(sampling) if mixed else None for sampling in samplings]
    rows = [
        GeneratedSequence(p, count, sampler) for p, sampler in zip(prompts, samplers, strict=False)
    ]
    generate(model, rows, model.config.n_positions)
    return [row.tokens for row in rows]


VARIANTS: dict[str, tuple[int, Callable[[GPT2LMHeadModel, Tokens, int], Tokens]]] = {
    "naive 1": (1, naive),
    "transformers 8": (BATCH, peer),
    "vestal 1": (1, ours),
    "vestal 8": (BATCH, ours),
    "vestal 8 mixed": (BATCH, lambda *given: ours(*given, mixed=True)),
    "int8 1": (1, ours),
    "int8 8": (BATCH, ours),
}


def measure(new_tokens: int, repeats: int, seconds_at_most: float) -> list[dict[str, object]]:
    """Return raw rows; no repeat starts after `seconds_at_most`."""
    torch.manual_seed(SEED)
    # Without an end token, every text has the full length.
    model = GPT2LMHeadModel(GPT2Config(eos_token_id=None, bos_token_id=None)).eval()
    int8 = copy.deepcopy(model)
    quantize(int8)
    prompts = torch.randint(0, model.config.vocab_size, (BATCH, PROMPT_TOKENS)).tolist()
    rows: list[dict[str, object]] = []
    began = time.perf_counter()
    for repeat in range(-1, repeats):
        if repeat > 0 and time.perf_counter() - began > seconds_at_most:
            break
        greedy = []
        for variant, (batch, run) in VARIANTS.items():
            count = new_tokens if repeat >= 0 else 4
            start, cpu = time.perf_counter(), time.process_time()
            tokens = run(int8 if "int8" in variant else model, prompts[:batch], count)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            rows.append(
                {
                    "variant": variant,
                    "batch": batch,
                    "prompt_tokens": PROMPT_TOKENS,
                    "new_tokens": count,
                    "repeat": repeat,
                    "seconds": round(seconds, 4),
                    "cpu_seconds": round(cpu, 4),
                    "load": round(os.getloadavg()[0], 2),  # of the whole machine
                    "tokens_per_second": round(batch * count / seconds, 2),
                }
            )
            print(f"repeat {repeat}: {variant:16} {seconds:8.2f} s", file=sys.stderr)
            if "mixed" not in variant and "int8" not in variant:
                greedy.append(tokens)
        if any(tokens[0] != greedy[0][0] for tokens in greedy) or greedy[1] != greedy[3]:
            sys.exit("the variants generated different tokens; nothing was measured")
    return [row for row in rows if row["repeat"] != -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds-at-most", type=float, default=120)
    parser.add_argument("--threads", type=int, help="all cores, where not given")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(options.threads or cores)
    with torch.inference_mode():
        rows = measure(options.new_tokens, options.repeats, options.seconds_at_most)
    machine = {
        "machine": f"{platform.machine()} {cores} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": SEED,
    }
    options.out.mkdir(exist_ok=True)
    path = options.out / f"text_generation-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], *machine], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **machine} for row in rows)
    speeds = {
        variant: statistics.median(
            float(str(row["tokens_per_second"])) for row in rows if row["variant"] == variant
        )
        for variant in VARIANTS
    }
    for variant, speed in speeds.items():
        print(f"{variant:16} {speed:8.1f} tokens/s  {speed / speeds['naive 1']:5.1f} x naive")
    print(f"median of {len(rows) // len(VARIANTS)}; raw rows in {path}")
    if speeds["vestal 8"] < TARGET * speeds["naive 1"]:
        sys.exit(f"below the target of {TARGET} x naive")


if __name__ == "__main__":
    main()
