"""Which images may pass."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from mcp_gateway.core.config import ConfigError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.policy.images import Blocklist, ImagePolicy, read_blocklist
from mcp_gateway.core.policy.watched_file import WatchedFile
from tests.cases import each

CONTENT = b"\x89PNG not really"
IMAGE = "data:image/png;base64," + b64encode(CONTENT).decode()


async def refusal(policy: ImagePolicy, image: str, *, model_sees: bool = True) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await policy.check([image], model_sees=model_sees)
    return raised.value


@each("kind", ["png", "jpeg", "webp", "gif", "PNG"])
async def test_an_image_sent_as_data_passes(kind: str) -> None:
    await ImagePolicy(True).check([IMAGE.replace("png", kind)], model_sees=True)


async def test_without_images_nothing_is_asked_of_gateway_or_model() -> None:
    await ImagePolicy(False).check([], model_sees=False)


async def test_images_are_refused_unless_gateway_and_model_both_take_them() -> None:
    assert (await refusal(ImagePolicy(False), IMAGE)).code == "vision_disabled"
    assert (await refusal(ImagePolicy(True), IMAGE, model_sees=False)).code == "vision_disabled"


@each(
    "image",
    [
        "https://example.com/cat.png",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PGI+",
        "data:image/png,raw",
        " " + IMAGE,
        "",
    ],
)
async def test_an_address_or_another_kind_of_data_is_refused_without_repeating_it(image: str) -> None:
    error = await refusal(ImagePolicy(True), image)
    assert (error.code, error.param) == ("unsupported_parameter", "image_url")
    assert "example.com" not in error.message


@each("data", ["", "!!!!", "a", "abc", "aaaa\n", "aaa=aaaa", "é" * 4, "\ud800aaa"])
async def test_what_is_empty_or_not_base64_is_refused(data: str) -> None:
    assert (await refusal(ImagePolicy(True), f"data:image/png;base64,{data}")).code == "invalid_value"


async def test_a_blocked_image_is_refused_by_its_bytes_whatever_it_is_declared_as() -> None:
    policy = ImagePolicy(True, frozenset([sha256(CONTENT).hexdigest()]))
    for image in (IMAGE, IMAGE.replace("png", "gif")):
        assert (await refusal(policy, image)).code == "content_policy"


LARGE = b"\x89PNG" + bytes(range(256)) * 9000
"""Of several slices."""


async def test_a_large_image_is_read_slice_by_slice_to_the_same_hash() -> None:
    policy = ImagePolicy(True, frozenset([sha256(LARGE).hexdigest()]))
    large = "data:image/png;base64," + b64encode(LARGE).decode()
    assert (await refusal(policy, large)).code == "content_policy"
    await policy.check([large[:-4]], model_sees=True)


@each("at", [2**20 - 1, 2**20, 2**20 + 1, 2**21 - 1])
@each("wrong", ["=", "!", "\n", "é"])
async def test_what_is_not_base64_is_found_at_the_edges_of_slices_too(at: int, wrong: str) -> None:
    data = "a" * at + wrong + "a" * (2**21 + 3 - at)
    assert (await refusal(ImagePolicy(True), f"data:image/png;base64,{data}")).code == "invalid_value"


async def test_a_blocked_image_is_found_behind_others() -> None:
    policy = ImagePolicy(True, frozenset([sha256(CONTENT).hexdigest()]))
    other = "data:image/png;base64," + b64encode(b"other").decode()
    with pytest.raises(GatewayError, match="content_policy"):
        await policy.check([other, IMAGE], model_sees=True)


HASHES = sha256(b"a").hexdigest(), sha256(b"b").hexdigest()


def test_a_blocklist_is_one_hash_a_line_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "blocklist"
    file.write_text(f"\ufeff# bad\r\n  {HASHES[0].upper()}\t# one\r\n\r\n{HASHES[1]}  two.png\n")
    assert read_blocklist(file) == set(HASHES)


@pytest.mark.parametrize("line", [b"abcdef", b"my-host", HASHES[0].encode() + b"0", b"\xff\xfe", b"g" * 64])
def test_a_blocklist_that_would_block_nothing_is_refused(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "blocklist"
    file.write_bytes(HASHES[0].encode() + b"\n" + line)
    with pytest.raises(ConfigError, match=r"image_blocklist_file: .*blocklist"):
        read_blocklist(file)


async def test_a_blocklist_is_read_again_when_it_was_changed_or_replaced(tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text(HASHES[0])
    watched = WatchedFile(file, read_blocklist)
    blocked = Blocklist(watched)
    for content, is_first, is_second in (
        (f"{HASHES[0]}\n{HASHES[1]}", True, True),
        ("no hash at all", True, True),
        (HASHES[1], False, True),
        ("# none", False, False),
    ):
        file.write_text(content)
        await watched.look()
        assert (HASHES[0] in blocked, HASHES[1] in blocked) == (is_first, is_second)
    file.unlink()
    await watched.look()
    (tmp_path / "new").write_text(HASHES[0])
    (tmp_path / "new").replace(file)
    await watched.look()
    assert HASHES[0] in blocked
