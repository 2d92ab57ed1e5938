"""`mcp-gateway routing`: what an operator brings counts whole or not at all, no prompt is kept, choices are told."""

import json
import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mcp_gateway.cli.commands import app
from mcp_gateway.cli.outcome_lines import OutcomeLines
from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.record import SCORE_WHOLE
from mcp_gateway.core.routing.outcomes import IMPORTED, CellCount
from tests.cases import each
from tests.test_command_line import NASTY, data_dir, kept_in, made, outside_of, run

pytestmark = pytest.mark.gateways

__all__ = ["data_dir"]

CANARY = "xylophone-canary-7731"
CODE = f"Write a Python function that parses {CANARY} and returns a list of integers."
SETTINGS = """
[[models]]
id = "big/model"
aliases = ["big"]
pricing = { prompt = "0.000003", completion = "0.000015" }
context_window = 32000
quality = { code = 0.9 }

[[models]]
id = "small/model"
pricing = { prompt = "0.0000001", completion = "0.0000004" }
context_window = 8000
"""


@pytest.fixture
def settings(data_dir: Path) -> Path:
    (data_dir / "gateway.toml").write_text(SETTINGS)
    return data_dir


def line(**fields: Any) -> bytes:
    return json.dumps({"model": "big/model", "task": "code", "score": 1} | fields).encode()


def written(folder: Path, lines: Iterable[bytes]) -> str:
    file = folder / "outcomes.jsonl"
    file.write_bytes(b"\n".join(lines))
    return str(file)


def counted(folder: Path) -> list[tuple[Any, ...]]:
    with outside_of(folder) as another:
        return another.rows("SELECT model, task, score, trials FROM outcomes ORDER BY model, task")


def bring(folder: Path, *lines: bytes, options: Iterable[str] = ()) -> Result:
    return run("routing", "import", written(folder, lines), *options)


def test_lines_are_summed_up_by_model_and_task(settings: Path) -> None:
    told = bring(
        settings,
        line(score=0.5),
        line(model="big", task="coding"),
        line(model="small/model", task="Question Answering", score=0),
        line(task=None, prompt=CODE, score=0.25),
        b"",
        line(id=7, prompt="not read where the task is named"),
    )
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout == "outcomes imported: 5, of models: 2\n"
    assert counted(settings) == [
        ("big/model", "code", round(2.75 * SCORE_WHOLE), 4), ("small/model", "question_answering", 0, 1),
    ]  # fmt: skip


def test_a_file_that_is_imported_twice_counts_twice_and_replace_begins_anew(settings: Path) -> None:
    assert "twice counts twice" in " ".join(run("routing", "import", "--help").stdout.split())
    for times in (1, 2):
        bring(settings, line(), line(task="math", score=0))
        assert [trials for *_, trials in counted(settings)] == [times, times]
    bring(settings, line(score=0.5), options=["--replace"])
    assert counted(settings) == [("big/model", "code", SCORE_WHOLE // 2, 1)]


def test_standard_input_is_read(settings: Path) -> None:
    told = CliRunner().invoke(app, ["routing", "import", "-", "--json"], input=line() + b"\r\n" + line())
    assert told.exit_code == 0
    assert json.loads(told.stdout) == {
        "outcomes": 2, "models": ["big/model"], "not_configured": [], "skipped": 0, "bad_lines": [], "replaced": False,
    }  # fmt: skip


BAD: dict[bytes, str] = {
    b"{": "is no JSON",
    b"\xff": "is no JSON",
    b"[]": "is no JSON object",
    b'"code"': "is no JSON object",
    line(model=None): "has no `model` that is a model's name",
    line(model=""): "has no `model` that is a model's name",
    line(model=NASTY): "has no `model` that is a model's name",
    line(model="m" * 201): "has no `model` that is a model's name",
    line(model=["big"]): "has no `model` that is a model's name",
    line(score=True): "has no `score` that is a number from 0 to 1",
    line(score="1"): "has no `score` that is a number from 0 to 1",
    line(score=1.01): "has no `score` that is a number from 0 to 1",
    line(score=-1): "has no `score` that is a number from 0 to 1",
    line(score=None): "has no `score` that is a number from 0 to 1",
    b'{"model": "big", "task": "code", "score": NaN}': "is no JSON",
    line(task=None): "has neither a `task` nor a `prompt` that is text",
    line(task=None, prompt=["Hello"]): "has neither a `task` nor a `prompt` that is text",
    line(task=CANARY): f"has a `task` that is none of {', '.join(TASKS)}",
    line(task=5): f"has a `task` that is none of {', '.join(TASKS)}",
    line(prompt="p" * 4_200_000): "is longer than 4194304 bytes",
}


@each("bad", list(BAD))
def test_a_line_that_cannot_be_read_is_named_by_number_and_reason_alone(bad: bytes) -> None:
    lines = OutcomeLines({})
    lines.read(BytesIO(b"\n".join([line(), bad, line()])))
    assert [(one.number, one.reason) for one in lines.bad] == [(2, BAD[bad])]
    assert lines.counts == [CellCount(IMPORTED, "big/model", "code", 2 * SCORE_WHOLE, 2)]


def test_one_bad_line_imports_nothing_unless_it_may_be_passed_over(settings: Path) -> None:
    lines = (line(), line(score=2), line(task="nothing"), line())
    refused = bring(settings, *lines)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("mcp-gateway: line 2 has no `score`")
    assert "\nline 3 has a `task` that is none of code, math" in refused.stderr
    assert counted(settings) == []
    taken = bring(settings, *lines, options=["--skip-bad"])
    assert (taken.exit_code, taken.stdout) == (0, "outcomes imported: 2, of models: 1\n")
    assert taken.stderr.startswith("line 2 has no `score`")
    assert counted(settings) == [("big/model", "code", 2 * SCORE_WHOLE, 2)]


def test_so_many_bad_lines_are_told_and_the_others_counted(settings: Path) -> None:
    refused = bring(settings, *[b"{"] * 25)
    assert refused.stderr.count("is no JSON") == 20
    assert "\nand 5 more\n" in refused.stderr


def test_no_more_models_are_taken_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.cli.outcome_lines._MOST_MODELS", 2)
    lines = OutcomeLines({})
    lines.read(BytesIO(b"\n".join(line(model=f"m{number % 3}") for number in range(6))))
    assert lines.models == ["m0", "m1"]
    reason = "names one model more than the 2 that a file may"
    assert [(one.number, one.reason) for one in lines.bad] == [(3, reason), (6, reason)]


def test_models_that_are_not_configured_are_told(settings: Path) -> None:
    told = bring(settings, line(), line(model="bg/model"))
    assert told.exit_code == 0
    assert told.stderr == "these models are in no [[models]], and count if a backend lists them: bg/model\n"


@each("file", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_told_in_words(file: str, settings: Path) -> None:
    refused = run("routing", "import", file)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith(f"mcp-gateway: {file}: ")


def test_no_prompt_of_an_import_is_left_anywhere(settings: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [line(task=None, prompt=CODE), line(task=None, prompt=CODE, score=CANARY), line(task=CANARY)]
    said = [bring(settings, *prompts), bring(settings, *prompts, options=["--skip-bad", "--json"])]
    (settings / "outcomes.jsonl").unlink()
    assert [one.exit_code for one in said] == [2, 0]
    assert counted(settings) == [("big/model", "code", SCORE_WHOLE, 1)]
    assert CANARY not in "".join(one.output for one in said) + caplog.text
    assert [path for path in settings.iterdir() if CANARY.encode() in path.read_bytes()] == []


def shown_rows(*options: str) -> list[list[str]]:
    told = run("routing", "show", *options)
    assert told.exit_code == 0, told.output
    return [re.split(r"  +", row) for row in told.stdout.splitlines()[1:]]


def test_what_models_are_expected_to_do_is_shown_with_what_stands_behind_it(settings: Path) -> None:
    bring(settings, *[line(model="small/model", score=0.75)] * 40, *[line(task="qa")] * 3, line(model="gone"))
    assert shown_rows() == [
        ["big/model", "code", "0.900", "0", "configuration"],
        ["big/model", "question_answering", "0.900", "3", "configuration of other tasks (too few outcomes to count)"],
        ["big/model", "analysis", "0.900", "3", "configuration of other tasks (too few outcomes to count)"],
        ["big/model", "any other", "0.900", "0", "configuration of other tasks"],
        ["small/model", "code", "0.722", "40", "outcomes"],
        ["small/model", "any other", "0.667", "0", "outcomes of other tasks"],
        ["gone", "code", "0.500", "1", "nothing (too few outcomes to count)"],
        ["gone", "any other", "0.500", "0", "nothing"],
        ["the default model is big/model"],
    ]
    facts = json.loads(run("routing", "show", "--json").stdout)
    assert facts["default_model"] == "big/model"
    assert [row["model"] for row in facts["rates"]] == [
        one for one in ("big/model", "small/model", "gone") for _ in TASKS
    ]
    assert facts["rates"][12] == {
        "model": "small/model", "task": "code", "rate": 0.7222, "outcomes": 40, "by": "outcomes",
    }  # fmt: skip


def test_an_account_s_own_scores_are_shown_where_it_is_named(settings: Path) -> None:
    account = made("accounts", "create", "Ann")
    with outside_of(settings) as another:
        row = (account, "small/model", "code", 30 * SCORE_WHOLE, 30)
        another.rows("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", *row)
    assert ["small/model", "code", "0.920", "30", "outcomes"] in shown_rows("--account", account)
    assert ["small/model", "any", "0.500", "0", "nothing"] in shown_rows()
    for words in (("show",), ("explain", "Hello")):
        refused = run("routing", *words, "--account", "acc_none")
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


def test_a_prompt_s_choice_is_explained_without_a_server(settings: Path) -> None:
    bring(settings, *[line(model="small/model", score=0.95)] * 60)
    told = run("routing", "explain", CODE, "--mode", "cheapest")
    assert told.exit_code == 0, told.output
    said = told.stdout.splitlines()
    assert said[0].startswith("task        code, with a confidence of 0.9")
    assert said[2] == "mode        cost"
    assert [row.split()[0] for row in said[5:7]] == ["small/model", "big/model"]
    assert said[-1].startswith("how quick models are is known to a running server alone")
    assert CANARY not in told.output
    assert CANARY.encode() not in kept_in(settings)


def test_an_explanation_as_json_has_every_model_of_the_settings(settings: Path) -> None:
    more = """
[[models]]
id = "tiny/window"
context_window = 40
pricing = { prompt = "0.0000001", completion = "0.0000001" }

[[models]]
id = "embeds"
task = "embed"
pricing = { prompt = "0.0000001" }

[[models]]
id = "apart"
pricing = { prompt = "0.0000001", completion = "0.0000001" }

[[models]]
id = "forgotten"

[routing]
model_pool = ["big", "small/model", "tiny/window", "embeds", "nobody"]
optimize = "quality"
"""
    (settings / "gateway.toml").write_text(SETTINGS + more)
    told = CliRunner().invoke(app, ["routing", "explain", "-", "--json"], input=CODE)
    facts = json.loads(told.stdout)
    assert (facts["task"], facts["mode"]) == ("code", "quality")
    assert [one["model"] for one in facts["candidates"]] == ["big/model", "small/model"]
    best = facts["candidates"][0]
    assert (best["rate"], best["outcomes"], best["has_quality"]) == (0.9, 0, True)
    assert facts["others"] == {
        "tiny/window": "context window too small",
        "embeds": "generates no text",
        "apart": "not in the pool",
        "forgotten": "not published: neither priced nor free",
        "nobody": "in the pool, and no published model",
    }


def test_what_cannot_be_explained_is_said_in_words(data_dir: Path) -> None:
    refused = run("routing", "explain", "Hello")
    assert (refused.exit_code, "there are no [[models]]" in refused.stderr) == (2, True)
    (data_dir / "gateway.toml").write_text(SETTINGS)
    refused = run("routing", "explain", "Hello", "--mode", NASTY)
    assert (refused.exit_code, "which is no mode: balanced" in refused.stderr) == (2, True)
    assert refused.stderr.strip().isprintable()
