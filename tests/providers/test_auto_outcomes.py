"""`auto` in operation over two servers: what outcomes bring at which price, and what is given up without any."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.cli.outcome_lines import OutcomeLines
from mcp_gateway.core.config import Share
from mcp_gateway.core.optimization import MODES, Mode
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.deciding import LEAST_QUALITY
from mcp_gateway.core.routing.quality import DEFAULT_MODEL_LEAD
from tests.cases import each
from tests.providers.doubles import OUTPUT, PROMPT, Generic, serving
from tests.providers.test_contract import ENVIRON
from tests.serving import Door, bearer, open_door

pytestmark = pytest.mark.providers
SMALL, LARGE = "small/model", "large/model"
USD_PER_MILLION = {SMALL: 1, LARGE: 20}
RATES: dict[str, dict[PromptTask, Share]] = {
    SMALL: {"code": 0.5, "conversation": 0.9, "translation": 0.85},
    LARGE: {"code": 0.9, "conversation": 0.95, "translation": 0.9},
}
"""How often each answers well, which nobody knows who has not judged its answers."""
PROMPTS: dict[PromptTask, list[str]] = {
    "code": [
        "Write a Python function that merges two sorted lists.",
        "Write a SQL query that counts orders by customer.",
    ],
    "conversation": ["hi there, how are you today?", "good morning, how was your day?"],
    "translation": ["Translate to German: The weather is nice today.", "Translate into Spanish: Where is the station?"],
}
READINGS = {prompt: PromptClassifier().read(prompt) for prompts in PROMPTS.values() for prompt in prompts}
_ROUNDS = 10


class Judge:
    """Finds so many answers good of each model in each task as its rate says, in turn."""

    def __init__(self) -> None:
        self._seen = Counter[tuple[str, PromptTask]]()

    def score(self, model_id: str, task: PromptTask) -> int:
        number, rate = self._seen[model_id, task], RATES[model_id][task]
        self._seen[model_id, task] += 1
        return int((number + 1) * rate + 1e-9) - int(number * rate + 1e-9)


@dataclass
class Stage:
    door: Door
    account: str
    key: str
    judge: Judge = field(default_factory=Judge)
    number: int = 0

    async def ask(self, prompt: str, mode: Mode) -> httpx2.Response:
        """Each a conversation of its own."""
        self.number += 1
        messages = [{"role": "system", "content": f"No. {self.number}"}, {"role": "user", "content": prompt}]
        response = await self.door.chat(self.key, model="auto", messages=messages, routing={"optimize": mode})
        assert response.status_code == 200, response.text
        return response

    def expected(self, model_id: str, prompt: str) -> float:
        table = self.door.gateway.outcomes.table_of(self.account, LARGE)
        return table.expected(READINGS[prompt])[model_id].rate

    async def evaluated(self, answers: int) -> None:
        """Bring outcomes of so many answers of both models in each task, as the command line does."""
        judge, told = Judge(), [(name, task) for name in RATES for task in PROMPTS for _ in range(answers)]
        rows = [{"model": name, "task": task, "score": judge.score(name, task)} for name, task in told]
        lines = OutcomeLines({})
        lines.read(BytesIO(b"\n".join(map(orjson.dumps, rows))))
        await (await self.door.desk()).outcomes.bring(lines.counts, in_place=True)
        await self.door.gateway.outcomes.catch_up()


@asynccontextmanager
async def operating(data_dir: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(Generic())) for name in ("small", "large")}
        models: list[dict[str, Any]] = [
            {
                "id": f"{name}/model",
                "provider": name,
                "backend_model": "m",
                "context_window": 32_000,
                "pricing": {"per_million": True, "prompt": str(usd), "completion": str(usd)},
            }
            for name, usd in (("small", USD_PER_MILLION[SMALL]), ("large", USD_PER_MILLION[LARGE]))
        ]
        settings: dict[str, Any] = {
            "providers": [double.settings(name) for name, double in doubles.items()],
            "models": models,
            "routing": {"default_model": LARGE},
            "limits": {"requests_per_minute": 1000, "listing_requests_per_minute": 1000},
        }
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, **settings))
        door.gateway.inference.parts.monotonic_s = lambda: 0.0  # so that both are as quick
        account = await door.account("100")
        yield Stage(door, account, await door.key(account))
        await door.nothing_is_left()


def price(model_id: str) -> Decimal:
    """Of an answer of the doubles."""
    return Decimal((PROMPT + OUTPUT) * USD_PER_MILLION[model_id]) / 1_000_000


async def test_with_outcomes_cost_has_the_quality_that_is_asked_for_at_the_price_that_is_predicted(
    tmp_path: Path,
) -> None:
    async with operating(tmp_path) as stage:
        await stage.evaluated(answers=200)
        good, cost, predicted, predicted_cost, best = 0, Decimal(0), 0.0, Decimal(0), 0.0
        asked = [(task, prompt) for _ in range(_ROUNDS) for task, prompts in PROMPTS.items() for prompt in prompts]
        for task, prompt in asked:
            rates = {name: stage.expected(name, prompt) for name in RATES}
            cheapest = SMALL if rates[SMALL] >= LEAST_QUALITY * rates[LARGE] else LARGE
            predicted, predicted_cost = predicted + rates[cheapest], predicted_cost + price(cheapest)
            response = await stage.ask(prompt, "cost")
            good += stage.judge.score(response.headers["x-routing-model"], task)
            cost += Decimal(response.headers["x-cost-usd"])
            best += RATES[LARGE][task]
        assert cost == predicted_cost == len(asked) * (price(LARGE) + 2 * price(SMALL)) / 3
        assert good / len(asked) == pytest.approx(predicted / len(asked), abs=0.02)
        assert good >= LEAST_QUALITY * best
        assert good > sum(RATES[SMALL][task] for task, _ in asked)  # which would be cheaper still


@each("mode", MODES)
async def test_without_outcomes_no_more_is_given_up_than_the_default_model_s_lead(mode: Mode, tmp_path: Path) -> None:
    async with operating(tmp_path / mode) as stage:
        for prompt in (prompt for prompts in PROMPTS.values() for prompt in prompts):
            chosen = (await stage.ask(prompt, mode)).headers["x-routing-model"]
            given_up = stage.expected(LARGE, prompt) - stage.expected(chosen, prompt)
            assert given_up <= DEFAULT_MODEL_LEAD + 1e-9
            assert chosen == LARGE or mode != "quality"


async def test_an_account_that_scores_its_answers_is_served_by_what_it_learns_and_others_as_before(
    tmp_path: Path,
) -> None:
    async with operating(tmp_path) as stage:
        (prompt, _), other = PROMPTS["code"], await stage.door.account("10")
        for _ in range(30):
            response = await stage.ask(prompt, "cost")
            assert response.headers["x-routing-model"] == SMALL
            body = {"request_id": response.json()["id"], "score": 0}
            told = await stage.door.http.post("/v1/feedback", json=body, headers=bearer(stage.key))
            assert told.json()["counted"] is True
        assert (await stage.ask(prompt, "cost")).headers["x-routing-model"] == LARGE
        others = Stage(stage.door, other, await stage.door.key(other))
        assert (await others.ask(prompt, "cost")).headers["x-routing-model"] == SMALL
