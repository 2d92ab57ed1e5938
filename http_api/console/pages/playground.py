"""The playground: a chat with a model in the browser, which asks the API itself; nothing of it is kept anywhere."""

from http_api.console.forms import Form
from http_api.console.pages.models import chatting_models
from http_api.console.serving import Console, Shown
from http_api.models import Models
from http_api.operations import AnyOperation, Asked
from http_api.query import AnyQuery

PLAYGROUND_PATH = "/console/playground"


class PlaygroundQuery(AnyQuery):
    """The model that is chosen to begin with."""

    model: str | None = None


class PlaygroundPages:
    def __init__(self, models: Models, *, base_url: str) -> None:
        self._models = models
        self._base_url = base_url

    def rows(self, console: Console) -> list[AnyOperation]:
        return [console.page(PLAYGROUND_PATH, self.show, query=PlaygroundQuery, scope="inference")]

    async def show(self, asked: Asked[PlaygroundQuery, Form]) -> Shown:
        models = chatting_models(self._models, asked)
        values = {
            "models": models,
            "model": asked.query.model or (models[0].id if models else ""),
            "base_url": self._base_url,
        }
        return Shown("playground.html", values)
