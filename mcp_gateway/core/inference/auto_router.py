"""Chooses the models that answer who asks for `auto`: by the prompt, the pool as it is, and what came of others.

It never fails a request because it failed itself: then the pool's default is asked.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from time import perf_counter
from typing import NamedTuple

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, Published
from mcp_gateway.core.config import RoutingSettings
from mcp_gateway.core.dialects.dialect import Targets
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.observe.paces import AnswerPaces
from mcp_gateway.core.record import RequestRecord, RoutingFacts
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.conversations import Conversations, Remembered
from mcp_gateway.core.routing.deciding import Decision, decide
from mcp_gateway.core.routing.eligibility import Contender, Requirements, nothing_eligible
from mcp_gateway.core.routing.latest import latest_text
from mcp_gateway.core.routing.lengths import AnswerLengths
from mcp_gateway.core.routing.model_pool import default_of, pool_of
from mcp_gateway.core.routing.needs import needs_of
from mcp_gateway.core.routing.outcome_book import OutcomeBook
from mcp_gateway.core.routing.rank import prefix_of
from mcp_gateway.core.surfaces.surface import Ask, Surface
from mcp_gateway.core.surfaces.wanted_routing import NOTHING_WANTED, ROUTING
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.pool import Pool

logger = logging.getLogger(__name__)

MOST_ALTERNATIVES = 9
"""Of the models that were chosen, so many are asked at most where the first fails."""
_ENDED_BY_ITSELF = ("stop", "end_turn", "completed")


class ToldRouting(NamedTuple):
    """What is told of the choice of a model: the one that answers, or is asked now, and who might have as well."""

    model: str
    task: str
    complexity: str
    confidence: float
    alternatives: tuple[str, ...]
    took_ms: float


class Choice(NamedTuple):
    """What was decided for one request: the models in the order in which they are asked; `prefix` is its beginning."""

    models: tuple[Model, ...]
    facts: RoutingFacts
    took_s: float
    prefix: bytes = b""

    def told(self, model_id: str) -> ToldRouting:
        """What is told where that model answers, or is asked now."""
        others, facts = [model.id for model in self.models if model.id != model_id], self.facts
        alternatives = tuple(others[:MOST_ALTERNATIVES])
        return ToldRouting(model_id, facts.task, facts.complexity, facts.confidence, alternatives, self.took_s * 1000)


class AutoRouter:
    """Remembers who served a conversation, and how long answers were, as long as the process lives."""

    def __init__(
        self,
        settings: RoutingSettings,
        published: Published,
        pool: Pool,
        metrics: Metrics,
        outcomes: OutcomeBook,
        targets: Targets,
        *,
        now_s: Callable[[], float] = perf_counter,
    ) -> None:
        self._settings = settings
        self._published = published
        self._pool = pool
        self._metrics = metrics
        self._outcomes = outcomes
        self.targets = targets
        """In force; other ones count from the next call on."""
        self._now_s = now_s
        self._conversations = Conversations()
        self._lengths = AnswerLengths()
        self._paces = AnswerPaces(metrics.answer_sums, now_s)

    def choose(self, ask: Ask, caller: Caller, source: str | None = None) -> Choice:
        """The models that may answer, of one source where one is named.

        Raises GatewayError `model_not_found` or `model_unavailable` where none may.
        """
        began_s = self._now_s()
        pool = self._pool_for(ask, caller, source)
        try:
            prefix = prefix_of(ask, caller.account_id)
            decision = self._decided(ask, caller, pool, prefix)
        except Exception as error:  # noqa: BLE001 - a request is served all the same, by the default model
            self._metrics.routing_failures.inc()
            logger.warning("a model could not be chosen: %s", type(error).__name__)
            return Choice(self._default_first(pool), RoutingFacts("unknown", "medium", 0.0), self._now_s() - began_s)
        if not decision.candidates:
            raise nothing_eligible(decision.eligibility)
        models = {model.id: model for model in pool}
        reading = decision.reading
        choice = Choice(
            tuple(models[one.model_id] for one in decision.candidates),
            RoutingFacts(reading.task, reading.complexity, round(reading.confidence, 3)),
            self._now_s() - began_s,
            prefix,
        )
        self._metrics.routing_decisions.observe(choice.took_s)
        return choice

    def note(self, choice: Choice, record: RequestRecord, *, is_test: bool) -> None:
        """Remember who has answered, and how long that was; of a request that was answered whole.

        A test key's is answered by the demo, so that its length says nothing of the model.
        """
        assert record.model is not None
        task = choice.facts.task
        if choice.prefix:
            self._conversations.note(choice.prefix, Remembered(record.model, task))
        if not is_test and task != "unknown" and record.finish_reason in _ENDED_BY_ITSELF:
            self._lengths.note(record.model, task, record.completion_tokens)

    @cached_property
    def _classifier(self) -> PromptClassifier:
        """Reads its weights for the first who asks for `auto`, in some 20 ms and 2 MiB, which others do not need."""
        return PromptClassifier()

    def _pool_for(self, ask: Ask, caller: Caller, source: str | None) -> Sequence[Model]:
        """Raises GatewayError `model_not_found` for a name in the request that is no model's."""
        seen, wanted = self._published.seen_by(caller), (ask.routing or NOTHING_WANTED).model_pool
        pool = pool_of(caller, seen, self._settings.model_pool, wanted)
        if wanted and pool.gone:
            number = wanted.index(pool.gone[0])
            problem = f"There is no model '{shown(pool.gone[0])}'."
            raise GatewayError("model_not_found", problem, param=f"{ROUTING}.model_pool[{number}]")
        if not pool.models:
            raise _nobody(wanted or caller.routing.model_pool)
        if source is None:
            return pool.models
        self._published.check_source(source)
        return [own for model in pool.models if (own := model.at(source)) is not None]

    def _decided(self, ask: Ask, caller: Caller, pool: Sequence[Model], prefix: bytes) -> Decision:
        wanted, settings = ask.routing or NOTHING_WANTED, self._settings
        reading = self._classifier.read(latest_text(ask.body.get(ask.surface.prompt_field)), wanted.task)
        required = Requirements(
            prompt_tokens=ask.prompt.estimated_text_tokens,
            output_limit=ask.output_limit,
            images=len(ask.prompt.images),
            needs=needs_of(ask),
            max_price_pico=wanted.max_price_pico,
        )
        return decide(
            self._contenders(pool, caller, ask.surface),
            required,
            reading,
            wanted.mode or caller.routing.mode or settings.optimize,
            self._outcomes.table_of(caller.account_id, self._default_of(pool)),
            lengths=self._lengths.averages,
            least_quality=settings.least_quality,
            before=self._conversations.served_before(prefix),
        )

    def _contenders(self, pool: Sequence[Model], caller: Caller, surface: Surface) -> list[Contender]:
        """As they are now; who is full or fails counts as up where all are, as for who names a model."""
        self._paces.look()
        sound = [
            self._contender(model, surface, is_up=caller.is_test or self._pool.is_sound_for(model)) for model in pool
        ]
        if any(one.is_up for one in sound):
            return sound
        return [one._replace(is_up=self._pool.can_take(one.model)) for one in sound]

    def _contender(self, model: Model, surface: Surface, *, is_up: bool) -> Contender:
        has_surface = any(self.targets.serves(offer, surface) for offer in model.offers)
        pace = self._paces.of(model.id)
        return Contender(
            model,
            has_surface=has_surface,
            is_up=is_up,
            first_token_s=pace.first_token_s,
            tokens_per_s=pace.tokens_per_s,
        )

    def _default_of(self, pool: Sequence[Model]) -> str | None:
        return default_of(pool, self._settings.default_model)

    def _default_first(self, pool: Sequence[Model]) -> tuple[Model, ...]:
        default = self._default_of(pool)
        return tuple(sorted(pool, key=lambda model: model.id != default))


def _nobody(named: Sequence[str] | None) -> GatewayError:
    """Where a pool has no model that the caller may ask for a text; it is told the names that are its own."""
    whose = "of this pool" if named is None else f"among {', '.join(named)}"
    return GatewayError("model_not_found", shown(f"You may ask no model {whose} for a text."), param="model")
