"""The path of requests where replicas share limits: admission is waited for, and nothing else differs."""

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.keys import refusal
from mcp_gateway.core.inference.exchange import Exchange, Inference
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.passage import Passage, PassageOrder
from mcp_gateway.core.limits.limiter import Turn
from mcp_gateway.core.limits.shared import SharedLimiter
from mcp_gateway.core.mcp_client.servers import ToolServers


class SharedInference(Inference):
    """Its limiter's decisions come from elsewhere."""

    def __init__(self, parts: Parts, limiter: SharedLimiter, tool_servers: ToolServers | None = None) -> None:
        super().__init__(parts, limiter, tool_servers)
        self._shared = limiter

    async def admit(self, caller: Caller, call: Call) -> Exchange:
        return Exchange(self.parts, caller, call, await self._turn_of(caller, call), self.running)

    async def pass_on(self, caller: Caller, order: PassageOrder) -> Passage:
        return Passage(self.parts, caller, order, await self._turn_of(caller, order), self.passing)

    async def _turn_of(self, caller: Caller, asked: Call | PassageOrder) -> Turn:
        """Raises GatewayError, also for a key that has ended meanwhile."""
        if (code := caller.validity.ended_by) is not None:
            raise refusal(code)
        try:
            turn = await self._shared.admitted(caller)
        except GatewayError as refused:
            self.refused.note(caller, asked, refused)
            raise
        if (code := caller.validity.ended_by) is not None:
            turn.release()
            raise refusal(code)
        return turn
