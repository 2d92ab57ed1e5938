"""Puts the images that a request names by their address into it, once for all attempts."""

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.image_fetching.fetcher import ImageRoom
from mcp_gateway.core.inference.meter import Meter
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.surfaces.surface import Ask


async def bring_images(parts: Parts, account_id: str, context: RequestContext | None, ask: Ask, meter: Meter) -> None:
    """Fetch them, and judge them as if they had been sent along. With them a body is at most as large as one may come.

    Raises GatewayError `invalid_image_url`, `content_policy` or `overloaded`.
    """
    assert parts.image_fetcher is not None  # the policy lets none pass then
    left_bytes = parts.settings.max_body_bytes - ask.prompt.text_bytes - sum(map(len, ask.prompt.images))
    room = ImageRoom(left_bytes, None if context is None else context.reservation)
    began_at_s = parts.monotonic_s()
    brought = await parts.image_fetcher.fetch(ask.prompt.remote_images, account_id, room)
    meter.waited_s += parts.monotonic_s() - began_at_s
    await parts.images.check(brought, model_sees=True)
    for image, uri in zip(ask.prompt.remote_images, brought, strict=True):
        image.put(image.part, uri)
    ask.prompt = ask.prompt._replace(remote_images=())
    ask.is_long = ask.is_long or sum(map(len, brought)) > LONG_BYTES
