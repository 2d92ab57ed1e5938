"""From labelled prompts to a file of weights; and what prompts are taken for by weights that never saw their source."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.classifier.features import features_of
from mcp_gateway.core.routing.classifier.weights import decoded, encoded
from scripts.routing.fit import Example, Fitted, fit, frequent, most_telling, restricted
from scripts.routing.labelled import LabelledPrompt, as_if_foreign, folds_by_source, with_courtesies

FOLDS = 6
_FEATURES = 3000
_LEAST_COUNT = 3
_COURTEOUS_SHARE = 0.5
_FOREIGN_SHARE = 0.25
_SEED = 7
_BALANCE = -0.3
"""Of tasks and sources with many prompts each one counts less: evened out by about a third."""
_NATURAL = 1.5
_KEPT_WEIGHTS = 0.9997
"""The few weights above all these are cut, so that the others have finer steps."""
_TEMPERATURES = [step / 100 for step in range(50, 201, 5)]


class Judged(NamedTuple):
    """A prompt, and how likely each task is by a classifier."""

    prompt: LabelledPrompt
    likely: list[float]

    @property
    def task(self) -> int:
        return self.likely.index(max(self.likely))

    @property
    def is_right(self) -> bool:
        return self.task == self.prompt.task

    @property
    def is_accepted(self) -> bool:
        return self.task in self.prompt.accepted


def weights_file(prompts: Sequence[LabelledPrompt], temperature: float = 1.0) -> bytes:
    """The same bytes for the same prompts."""
    weighted = _balanced(prompts)
    random = Random(_SEED)  # noqa: S311 - no secret hangs on it
    courteous = with_courtesies(weighted, _COURTEOUS_SHARE, random)
    foreign = as_if_foreign(weighted, _FOREIGN_SHARE, random)
    examples = [_example(one) for one in (*weighted, *courteous, *foreign)]
    fitted = _selected(examples, random)
    sizes = sorted(abs(weight) for row in fitted.weights.values() for weight in row)
    largest = sizes[int(_KEPT_WEIGHTS * (len(sizes) - 1))]
    return encoded(fitted.weights, fitted.bias, temperature, largest)


def with_unseen_sources(prompts: Sequence[LabelledPrompt]) -> Iterator[tuple[PromptClassifier, list[LabelledPrompt]]]:
    """For each part of the sources, a classifier that was made without it: which features there are, too."""
    for sources in folds_by_source(prompts, FOLDS):
        others = weights_file([prompt for prompt in prompts if prompt.source not in sources])
        yield PromptClassifier(decoded(others)), [prompt for prompt in prompts if prompt.source in sources]


def judged(classifier: PromptClassifier, prompts: Iterable[LabelledPrompt]) -> list[Judged]:
    return [Judged(prompt, classifier.probabilities(prompt.text)) for prompt in prompts]


def temperature_for(judgements: Iterable[Judged]) -> float:
    """By which the probabilities of tasks that were found in other sources are as sure as they are right."""
    told = [([math.log(one + 1e-12) for one in judgement.likely], judgement.prompt.task) for judgement in judgements]

    def loss(temperature: float) -> float:
        return math.fsum(_surprise([one / temperature for one in logs], task) for logs, task in told)

    return min(_TEMPERATURES, key=loss)


def _surprise(values: Sequence[float], task: int) -> float:
    most = max(values)
    return most + math.log(math.fsum(math.exp(value - most) for value in values)) - values[task]


def _balanced(prompts: Sequence[LabelledPrompt]) -> list[LabelledPrompt]:
    by_task = Counter(prompt.task for prompt in prompts)
    by_source = Counter(prompt.source for prompt in prompts)
    weights = [
        (by_task[prompt.task] * by_source[prompt.source]) ** _BALANCE * (_NATURAL if prompt.is_natural else 1)
        for prompt in prompts
    ]
    mean = math.fsum(weights) / len(weights)
    return [prompt._replace(weight=weight / mean) for prompt, weight in zip(prompts, weights, strict=True)]


def _example(prompt: LabelledPrompt) -> Example:
    features = features_of(prompt.text)
    return Example(tuple(dict.fromkeys((*features.form, *features.words))), prompt.task, prompt.weight)


def _selected(examples: Sequence[Example], random: Random) -> Fitted:
    """Fitted twice: with every feature that is not rare, and with those of them that tell the most."""
    common = restricted(examples, frequent(examples, _LEAST_COUNT))
    telling = most_telling(common, fit(common, random, epochs=8), _FEATURES)
    return fit(restricted(common, telling), random, epochs=15)
