"""What the classifier has to reach, measured: each gate with its bar. Five minutes of a processor.

    python -m scripts.routing.gates PROMPTS.jsonl.gz          (from the project's folder)

Every prompt is judged by a classifier that was made without its source. Ends with status 1 where a bar is missed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.classifier.weights import FILE
from scripts.routing.keyword_rules import task_by_rules
from scripts.routing.labelled import LabelledPrompt, read
from scripts.routing.perturbed import PERTURBATIONS, fuzzed
from scripts.routing.training import Judged, judged, with_unseen_sources

FUZZED_TEXTS = 10_000
_PERTURBED_EVERY = 4
"""One prompt in so many."""


class Gate(NamedTuple):
    name: str
    measured: float
    bar: float | None = None
    """None of what is told for information."""

    @property
    def is_met(self) -> bool:
        return self.bar is None or self.measured >= self.bar


class _Measured(NamedTuple):
    judgements: list[Judged]
    same: Counter[str]
    """Of the prompts that were perturbed, those with the task that they had before."""
    perturbed: int


def gates_of(prompts: Sequence[LabelledPrompt]) -> list[Gate]:
    everything = _measured(prompts)
    return [
        *_accuracy(everything.judgements),
        *(
            Gate(f"H same task with {name}", everything.same[name] / everything.perturbed, 0.83)
            for name in PERTURBATIONS
        ),
    ]


def fuzzed_without_failure(prompts: Sequence[LabelledPrompt], number: int = FUZZED_TEXTS) -> Gate:
    """By the weights that are shipped; the classifier says `unknown` where it has failed."""
    classifier, random = PromptClassifier(), Random(1)  # noqa: S311 - no secret hangs on it
    read_ones = sum(classifier.read(fuzzed(prompts, random)).task != "unknown" for _ in range(number))
    return Gate(f"M {number} fuzzed texts read", read_ones / number, 1.0)


def _measured(prompts: Sequence[LabelledPrompt]) -> _Measured:
    judgements: list[Judged] = []
    same: Counter[str] = Counter()
    perturbed = 0
    for classifier, unseen in with_unseen_sources(prompts):
        found = judged(classifier, unseen)
        judgements += found
        for one in found[::_PERTURBED_EVERY]:
            perturbed += 1
            same.update(
                name for name, change in PERTURBATIONS.items() if _task(classifier, change(one.prompt.text)) == one.task
            )
    return _Measured(judgements, same, perturbed)


def _task(classifier: PromptClassifier, text: str) -> int:
    likely = classifier.probabilities(text)
    return likely.index(max(likely))


def _accuracy(judgements: Sequence[Judged]) -> list[Gate]:
    natural = [one for one in judgements if one.prompt.is_natural]
    by_rules = _share(task_by_rules(one.prompt.text) == one.prompt.task for one in natural)
    strict = _share(one.is_right for one in natural)
    return [
        Gate("A natural prompts, strict", strict, 0.62),
        Gate("A natural prompts, lenient", _share(one.is_accepted for one in natural), 0.73),
        Gate("G natural prompts, above the keyword rules", strict - by_rules, 0.05),
        Gate("  all prompts, strict", _share(one.is_right for one in judgements)),
        Gate("  all prompts, lenient", _share(one.is_accepted for one in judgements)),
        Gate(
            "  all prompts, strict, by the keyword rules",
            _share(task_by_rules(one.prompt.text) == one.prompt.task for one in judgements),
        ),
    ]


def _share(found: Iterable[bool]) -> float:
    seen = list(found)
    return sum(seen) / len(seen)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("prompts", type=Path)
    prompts = read(parser.parse_args(arguments).prompts)
    gates = [*gates_of(prompts), fuzzed_without_failure(prompts), Gate("  bytes of the weights", FILE.stat().st_size)]
    for gate in gates:
        bar = "" if gate.bar is None else f"{gate.bar:>8}{'' if gate.is_met else '   missed'}"
        print(f"{gate.name:<50}{gate.measured:>10.3f}{bar}")
    return 0 if all(gate.is_met for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
