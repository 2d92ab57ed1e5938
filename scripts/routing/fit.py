"""Fits the weights of features: multinomial logistic regression by stochastic gradient descent.

Needs the standard library alone: the weights of one feature are lanes of one integer, so that one addition moves or
sums the weights of all tasks. Integers add up to the same on every machine, in whatever order the features stand.
"""

import math
import struct
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.features import Feature

_LANES = struct.Struct(f"<{len(TASKS)}Q")
_ONE = 1 << 32
"""The weight 1.0 in a lane."""
_MIDDLE = 1 << 63
_OFFSET = int.from_bytes(_LANES.pack(*[_MIDDLE] * len(TASKS)), "little")
"""Makes every lane positive, whatever signs the weights have."""


class Example(NamedTuple):
    features: tuple[Feature, ...]
    task: int
    weight: float


class Fitted(NamedTuple):
    """Weights by feature and a bias, each a number a task."""

    weights: dict[Feature, tuple[float, ...]]
    bias: list[float]


def softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    powers = [math.exp(value - most) for value in values]
    whole = math.fsum(powers)
    return [power / whole for power in powers]


def frequent(examples: Sequence[Example], least: int) -> set[Feature]:
    counts = Counter(feature for example in examples for feature in example.features)
    return {feature for feature, count in counts.items() if count >= least}


def restricted(examples: Sequence[Example], features: set[Feature]) -> list[Example]:
    return [one._replace(features=tuple(name for name in one.features if name in features)) for one in examples]


def most_telling(examples: Sequence[Example], fitted: Fitted, number: int) -> set[Feature]:
    """The features that move the most: by their weights, and by how often they stand in few."""
    mass: Counter[Feature] = Counter()
    for example in examples:
        share = 1 / (len(example.features) or 1)
        for feature in example.features:
            mass[feature] += share  # type: ignore[assignment]

    def moved(feature: Feature) -> float:
        return sum(weight * weight for weight in fitted.weights[feature]) * mass[feature]

    return set(sorted(fitted.weights, key=lambda feature: (-moved(feature), str(feature)))[:number])


def fit(examples: Sequence[Example], random: Random, *, epochs: int, rate: float = 1.0, decay: float = 2e-5) -> Fitted:
    """`decay` is the L2 penalty; the rate falls to nothing in the last epoch. `random` puts examples in order."""
    lanes = dict.fromkeys((name for example in examples for name in example.features), 0)
    bias, shrunk = [0.0] * len(TASKS), 1.0
    order, steps, step = list(range(len(examples))), epochs * len(examples), 0
    for _ in range(epochs):
        random.shuffle(order)
        for index in order:
            step += 1
            now = rate * (1 - step / steps)
            shrunk *= 1 - now * decay
            _learn(examples[index], lanes, bias, now, shrunk)
    weights = {name: tuple(shrunk * lane / _ONE for lane in _unpacked(whole)) for name, whole in lanes.items()}
    return Fitted(weights, bias)


def _learn(example: Example, lanes: dict[Feature, int], bias: list[float], rate: float, shrunk: float) -> None:
    """One step: `shrunk` is by how much the penalty has shrunk all weights, which is not written into each."""
    features = example.features
    scale = 1 / math.sqrt(len(features) or 1)
    sums = _unpacked(sum([lanes[name] for name in features]))
    factor = shrunk * scale / _ONE
    wrong = softmax([total * factor + one for total, one in zip(sums, bias, strict=True)])
    wrong[example.task] -= 1
    step = rate * example.weight
    for task, error in enumerate(wrong):
        bias[task] -= 0.1 * step * error
    moved = _packed([round(-step * error * scale / shrunk * _ONE) for error in wrong])
    for name in features:
        lanes[name] += moved


def _packed(values: Sequence[int]) -> int:
    return int.from_bytes(_LANES.pack(*[value + _MIDDLE for value in values]), "little") - _OFFSET


def _unpacked(whole: int) -> list[int]:
    return [lane - _MIDDLE for lane in _LANES.unpack((whole + _OFFSET).to_bytes(_LANES.size, "little"))]
