import asyncio
from tests.serving import *
from tests.replaying import *
from tests.doors.test_http_departure import request_of


async def test_pipe(tmp_path):
    async with ReplayingBackend() as b, open_door(tmp_path, vllm_urls=[b.url], models=[FREE]) as door:
        key = await door.key()
        b.answer_with(silence, silence)
        r, w = await asyncio.open_connection("127.0.0.1", door.port)
        w.write(request_of(key))
        await b.chats_asked(1)
        w.write(request_of(key))
        await w.drain()
        await asyncio.sleep(0.1)
        w.close()
        await w.wait_closed()
        async with asyncio.timeout(2):
            await b.chats[0].is_gone.wait()
        await door.nothing_is_left()
