"""What it costs to read a prompt, and to decide among twenty models: microseconds of CPU, with the limit of each.

    python -m benchmarks.routing [PROMPTS.jsonl.gz]          (from the project's folder)

The prompts are the labelled ones of that file, or else a few of each length that stand here. Of five runs of a prompt
the fastest counts.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mcp_gateway.core.catalog import VLLM, Model, Offer
from mcp_gateway.core.prices import Price
from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.deciding import decide
from mcp_gateway.core.routing.eligibility import Contender, Requirements
from mcp_gateway.core.routing.quality import Outcomes, QualityTable
from scripts.routing.labelled import read

RUNS = 5
LONG = ("Summarize this log. " + "the quick brown fox jumps over 12 lazy dogs; " * 500)[:20_000]
PROMPTS = [
    "Hi, how are you?",
    "What is the capital of Australia, and how many people live there?",
    "Write a Python function that takes a list of orders and returns the total by customer, with tests.",
    "Translate this into French: the committee will meet on Tuesday to discuss the new bridge.",
    "Explain step by step how to solve 3x^2 - 12x + 9 = 0, and check the result by putting it in again.",
    "Summarize the following in one paragraph.\n\n"
    + "The council met on Tuesday, and two members left before the vote. " * 12,
] * 100
MODELS = [
    Model(
        id=f"model-{number}", offers=(Offer(VLLM, "m", Price(50_000 * number, 200_000 * number)),), name="",
        description="", owned_by="", created_at_s=0, context_window=128_000, max_output_tokens=8_000, quantization=None,
        features=("tools", "json_mode"), input_modalities=("text",), aliases=(), is_open_to_guests=True,
    )
    for number in range(1, 21)
]  # fmt: skip
CONTENDERS = [Contender(one, True, 0.05 * number, 120.0 - number) for number, one in enumerate(MODELS, 1)]
QUALITY = QualityTable(
    {(one.id, task): Outcomes(50.0 + number, 100) for number, one in enumerate(MODELS) for task in TASKS}, {}, "model-9"
)


def took_us(work: Callable[[str], object], text: str) -> float:
    """The fastest of some runs, since what else the machine does only ever adds to it."""
    took = []
    for _ in range(RUNS):
        began_ns = time.process_time_ns()
        work(text)
        took.append(time.process_time_ns() - began_ns)
    return min(took) / 1000


def percentile_us(work: Callable[[str], object], texts: Sequence[str], share: float) -> float:
    return sorted(took_us(work, text) for text in texts)[int(share * (len(texts) - 1))]


def main() -> None:
    texts = [one.text for one in read(Path(sys.argv[1]))] if len(sys.argv) > 1 else PROMPTS
    classifier = PromptClassifier()

    def whole(text: str) -> object:
        required = Requirements(prompt_tokens=len(text) // 4)
        return decide(CONTENDERS, required, classifier.read(text), "balanced", QUALITY)

    gc.disable()
    print(f"{len(texts)} prompts{'':<30}{'us of CPU':>10}{'limit':>8}")
    for name, work, prompts, share, limit in [
        ("a prompt is read, p50", classifier.read, texts, 0.5, 100),
        ("a prompt is read, p99", classifier.read, texts, 0.99, 600),
        ("one of 20,000 characters, p50", classifier.read, [LONG] * 200, 0.5, 400),
        ("read, and 20 models weighed, p50", whole, texts, 0.5, 150),
        ("read, and 20 models weighed, p99", whole, texts, 0.99, 1000),
    ]:
        us = percentile_us(work, prompts, share)
        print(f"{name:<42}{us:>10.0f}{limit:>8}{'' if us <= limit else '   above its limit'}")


if __name__ == "__main__":
    main()
