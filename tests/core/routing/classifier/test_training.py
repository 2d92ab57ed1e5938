"""Weights are made by a script from labelled prompts: the same bytes for the same prompts, on any day."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.classifier.weights import FILE, decoded
from scripts.routing.fit import Example, fit, most_telling, softmax
from scripts.routing.gates import fuzzed_without_failure, gates_of
from scripts.routing.labelled import LabelledPrompt, folds_by_source, read, with_courtesies
from scripts.routing.training import Judged, temperature_for

ROOT = Path(__file__).parents[4]
PROMPTS = Path(os.environ.get("PROMPTS", "PROMPTS"))
"""The labelled prompts are no part of the project; `make routing-gates PROMPTS=...` says where they are."""
CODE, POEM = TASKS.index("code"), TASKS.index("creative_writing")


def write_prompts(path: Path) -> None:
    made = {
        "code": "Write a Python function that sorts number {} lists.",
        "creative_writing": "Write a poem about autumn number {} and the sea.",
        "translation": "Translate sentence number {} into French.",
    }
    rows = [
        {"prompt": text.format(number), "task": task, "alt": [], "source": f"source {number % 7}", "natural": True}
        for task, text in made.items()
        for number in range(21)
    ]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def trained(prompts: Path, target: Path, hash_seed: str) -> bytes:
    command = [sys.executable, "-m", "scripts.routing.train", str(prompts), str(target)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True)
    return target.read_bytes()


@pytest.mark.program
def test_two_trainings_write_the_same_bytes_whatever_the_seed_of_hashes(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl.gz")
    first, second = (trained(tmp_path / "prompts.jsonl.gz", tmp_path / seed, seed) for seed in ("1", "2"))
    assert first == second
    classifier = PromptClassifier(decoded(first))
    assert classifier.read("Write a poem about the moon and the sea.").task == "creative_writing"
    assert classifier.read("Please write a Python function that sorts names.").task == "code"


EXAMPLES = [
    Example(features, task, 1.0)
    for features, task in [(("a", "x"), CODE), (("b", "x"), POEM), (("a",), CODE), (("b",), POEM)] * 10
]


def test_a_fit_tells_apart_what_can_be_told_apart() -> None:
    fitted = fit(EXAMPLES, Random(1), epochs=20)
    assert fitted.weights["a"][CODE] > 1 > -1 > fitted.weights["a"][POEM]
    assert abs(fitted.weights["x"][CODE]) < abs(fitted.weights["a"][CODE]) / 3
    assert abs(sum(fitted.weights["b"])) < 1e-6, "what one task gains the others lose"


def test_a_fit_is_the_same_again_and_keeps_what_tells_the_most() -> None:
    fitted = fit(EXAMPLES, Random(1), epochs=5)
    assert fitted == fit(EXAMPLES, Random(1), epochs=5)
    assert most_telling(EXAMPLES, fitted, 2) == {"a", "b"}


def test_a_strong_penalty_keeps_weights_small() -> None:
    free, held = (fit(EXAMPLES, Random(1), epochs=20, decay=decay) for decay in (0.0, 0.02))
    assert 0 < held.weights["a"][CODE] < free.weights["a"][CODE] / 2


def test_who_is_too_sure_is_made_less_so() -> None:
    prompt = LabelledPrompt("", CODE, frozenset({CODE}), "source", is_natural=True)
    sure = softmax([6.0 if task == CODE else 0.0 for task in range(len(TASKS))])
    wrong = softmax([6.0 if task == POEM else 0.0 for task in range(len(TASKS))])
    assert temperature_for([Judged(prompt, sure)] * 9) < 1
    assert temperature_for([Judged(prompt, sure), Judged(prompt, wrong)]) > 1.5


def test_no_source_is_left_out_twice_and_courtesies_change_no_label() -> None:
    prompts = [
        LabelledPrompt(f"Prompt {number}.", CODE, frozenset({CODE}), f"source {number % 8}", is_natural=True)
        for number in range(40)
    ]
    folds = folds_by_source(prompts, 6)
    assert sorted(source for fold in folds for source in fold) == [f"source {number}" for number in range(8)]
    more = list(with_courtesies(prompts, 1.0, Random(1)))
    assert all(prompt.text in one.text != prompt.text for prompt, one in zip(prompts, more, strict=True))
    assert {(one.task, one.weight) for one in more} == {(CODE, 0.6)}


@pytest.mark.slow
@pytest.mark.skipif(not PROMPTS.is_file(), reason="PROMPTS names no file of labelled prompts")
class TestGates:
    """By `make routing-gates`."""

    def test_what_is_shipped_is_what_the_script_makes(self, tmp_path: Path) -> None:
        assert trained(PROMPTS, tmp_path / "weights", "1") == FILE.read_bytes()

    def test_every_bar_is_reached_by_weights_that_never_saw_the_source(self) -> None:
        assert [gate for gate in gates_of(read(PROMPTS)) if not gate.is_met] == []

    def test_ten_thousand_texts_are_read_without_a_failure(self) -> None:
        assert fuzzed_without_failure(read(PROMPTS)).is_met
