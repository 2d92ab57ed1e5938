"""The file of weights: what the training script writes and the gateway reads once, and checks.

A zlib stream of a line of JSON and a table of signed bytes, a row a feature and a column a task.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.features import Feature
from mcp_gateway.core.routing.classifier.lexicon import lexicon

FILE = Path(__file__).with_name("weights.bin")
MOST_BYTES = 64 * 1024
_FORMAT = 1
"""Another one where features are named otherwise."""
_BETWEEN = "\t"
"""Stands in no token."""
_LARGEST = 127
_MIDDLE = 128
"""Is added to each weight, so that no lane is negative."""
_NOWHERE = -1
_LANES = struct.Struct(f"<{len(TASKS) + 1}I")


class LinearSums(NamedTuple):
    """Of the features of one prompt: the weights of each task, added up, and how many features are known."""

    by_task: tuple[int, ...]
    known: int


class TaskWeights:
    """Weights by feature. Those of one feature are lanes of one integer, with a one to count it in the last."""

    def __init__(
        self, by_feature: Mapping[Feature, Sequence[int]], bias: Sequence[float], scale: float, temperature: float
    ) -> None:
        self.bias = tuple(bias)
        self.scale = scale
        """What a weight of 1 is worth."""
        self.temperature = temperature
        """By which probabilities are made as sure as they should be."""
        self._places = {name: place for place, name in enumerate(by_feature)}
        self._lanes = [_packed(row) for row in by_feature.values()]

    def __len__(self) -> int:
        return len(self._lanes)

    def sums(self, features: Sequence[Feature]) -> LinearSums:
        """Each feature counts once, however often it is there."""
        # Places rather than features make the set: a tuple is hashed anew each time that it is looked for.
        known_places = set(map(self._places.get, features, repeat(_NOWHERE)))
        known_places.discard(_NOWHERE)
        whole = sum(map(self._lanes.__getitem__, known_places))
        *by_task, known = _LANES.unpack(whole.to_bytes(_LANES.size, "little"))
        return LinearSums(tuple([lane - _MIDDLE * known for lane in by_task]), known)


def _packed(row: Sequence[int]) -> int:
    return int.from_bytes(_LANES.pack(*[weight + _MIDDLE for weight in row], 1), "little")


def encoded(
    by_feature: Mapping[Feature, Sequence[float]], bias: Sequence[float], temperature: float, largest: float
) -> bytes:
    """The file of these weights; `largest` is what the largest byte stands for, and cuts those above it."""
    scale = largest / _LARGEST
    rows = sorted((_name_of(feature), row) for feature, row in by_feature.items())
    head = {
        "format": _FORMAT,
        "lexicon": lexicon().digest,
        "tasks": TASKS,
        "bias": [round(one, 4) for one in bias],
        "scale": scale,
        "temperature": round(temperature, 3),
        "features": [name for name, _ in rows],
    }
    table = [max(-_LARGEST, min(_LARGEST, round(weight / scale))) for _, row in rows for weight in row]
    line = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return zlib.compress(line + b"\n" + struct.pack(f"{len(table)}b", *table), level=9)


def decoded(content: bytes) -> TaskWeights:
    """Raises ValueError for what is not such a file, or was made for another lexicon or other tasks."""
    try:
        line, _, table = zlib.decompress(content).partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        made_for = head["format"], head["lexicon"], head["tasks"]
        names, bias = [_feature_of(name) for name in head["features"]], [float(one) for one in head["bias"]]
        scale, temperature = float(head["scale"]), float(head["temperature"])
        rows = list(struct.iter_unpack(f"{len(TASKS)}b", table))
    except (zlib.error, struct.error, KeyError, TypeError, ValueError) as error:
        raise ValueError("these are no weights of tasks") from error
    if made_for != (_FORMAT, lexicon().digest, list(TASKS)):
        raise ValueError("these weights are for another lexicon, or for other tasks: train them anew")
    is_sound = len(names) == len(set(names)) == len(rows) and len(bias) == len(TASKS)
    if not (is_sound and all(map(math.isfinite, (*bias, scale))) and 0 < temperature < math.inf):
        raise ValueError("these weights are damaged")
    return TaskWeights(dict(zip(names, rows, strict=True)), bias, scale, temperature)


def _name_of(feature: Feature) -> str:
    return feature if isinstance(feature, str) else _BETWEEN.join(feature)


def _feature_of(name: str) -> Feature:
    return tuple(name.split(_BETWEEN)) if _BETWEEN in name else name


@cache
def shipped() -> TaskWeights:
    """Decoded once in a process, whose gateways all read by the same."""
    return decoded(FILE.read_bytes())
