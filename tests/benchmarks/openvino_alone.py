"""Speed of OpenVINO GenAI with a GGUF file, in its own process: another engine for CPUs.

    python -m venv /tmp/openvino && /tmp/openvino/bin/pip install openvino-genai
    /tmp/openvino/bin/python tests/benchmarks/openvino_alone.py MODEL [--rounds 3]

Compare with `llm-serving-engine bench --workload steady --clients 1,4,16`: prompts of 64
words and 64 tokens of output. Then the time to the first token of lone prompts. Prompts
are computed by the engine's own default scheduling, with two threads.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

CLIENTS = (1, 4, 16)
WORDS, OUTPUT = 64, 64
LONE_WORDS = (100, 300, 900)
NOUNS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


def prompt_of(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(NOUNS, k=words))


def seconds_of(pipeline: Any, prompts: list[str], config: Any) -> float:
    started = time.perf_counter()
    pipeline.generate(prompts, [config] * len(prompts))
    return time.perf_counter() - started


def main() -> None:
    import openvino_genai as genai  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    properties = {"INFERENCE_NUM_THREADS": options.threads}
    pipeline = genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", properties)
    tokenizer = pipeline.get_tokenizer()
    draw = random.Random(0)

    def config_of(tokens: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample = True, False
        config.apply_chat_template = False
        return config

    seconds_of(pipeline, [prompt_of(draw, WORDS)], config_of(4))
    for clients in CLIENTS:
        took = [
            seconds_of(
                pipeline, [prompt_of(draw, WORDS) for _ in range(clients)], config_of(OUTPUT)
            )
            for _ in range(options.rounds)
        ]
        speed = clients * OUTPUT / statistics.median(took)
        print(f"{clients:2} requests: {speed:7.1f} tokens/s", flush=True)
    for words in LONE_WORDS:
        prompts = [prompt_of(draw, words) for _ in range(options.rounds)]
        seconds = statistics.median(seconds_of(pipeline, [one], config_of(1)) for one in prompts)
        tokens = tokenizer.encode(prompts[0]).input_ids.shape[1]
        print(f"lone prompt of {tokens} tokens: {seconds * 1000:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
