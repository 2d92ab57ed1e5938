"""Which images may pass."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.policy.images import ImagePolicy, read_blocklist

CONTENT = b"\x89PNG not really"
IMAGE = "data:image/png;base64," + b64encode(CONTENT).decode()


def refusal(policy: ImagePolicy, image: str, *, model_sees: bool = True) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        policy.check([image], model_sees=model_sees)
    return raised.value


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "PNG"])
def test_an_image_sent_as_data_passes(kind: str) -> None:
    ImagePolicy(True).check([IMAGE.replace("png", kind)], model_sees=True)


def test_without_images_nothing_is_asked_of_gateway_or_model() -> None:
    ImagePolicy(False).check([], model_sees=False)


def test_images_are_refused_unless_gateway_and_model_both_take_them() -> None:
    assert refusal(ImagePolicy(False), IMAGE).code == "vision_disabled"
    assert refusal(ImagePolicy(True), IMAGE, model_sees=False).code == "vision_disabled"


@pytest.mark.parametrize(
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
def test_an_address_or_another_kind_of_data_is_refused_without_repeating_it(image: str) -> None:
    error = refusal(ImagePolicy(True), image)
    assert (error.code, error.param) == ("unsupported_parameter", "image_url")
    assert "example.com" not in error.message


@pytest.mark.parametrize("data", ["!!!!", "a", "abc", "aaaa\n", "aaa=aaaa", "é" * 4, "\ud800aaa"])
def test_what_is_not_base64_is_refused(data: str) -> None:
    assert refusal(ImagePolicy(True), f"data:image/png;base64,{data}").code == "invalid_value"


def test_a_blocked_image_is_refused_by_its_bytes_whatever_it_is_declared_as() -> None:
    policy = ImagePolicy(True, frozenset([sha256(CONTENT).hexdigest()]))
    for image in (IMAGE, IMAGE.replace("png", "gif")):
        assert refusal(policy, image).code == "content_policy"


def test_a_blocked_image_is_found_behind_others() -> None:
    policy = ImagePolicy(True, frozenset([sha256(CONTENT).hexdigest()]))
    other = "data:image/png;base64," + b64encode(b"other").decode()
    with pytest.raises(GatewayError, match="content_policy"):
        policy.check([other, IMAGE], model_sees=True)


def test_a_blocklist_is_one_hash_a_line_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "blocked.txt"
    file.write_text("# the list\n\nABCDEF  # one\n  123456\n")
    assert read_blocklist(file) == {"abcdef", "123456"}
