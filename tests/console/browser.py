"""Chromium on pages of a served gateway, and all that it complains of."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.patience import PATIENCE_S

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_ALIKE = ".reference > section:not(:nth-of-type(20n + 1))"
"""Of the many sections of the reference, all made by the same code, axe finds one in twenty: all take minutes."""
_AXE = """async ([alike, rules]) => {
  for (const one of document.querySelectorAll(alike)) one.remove();
  return (await axe.run({runOnly: rules, resultTypes: ["violations"]})).violations;
}"""
_WATCH = """
window.__violations = [];
document.addEventListener("securitypolicyviolation",
  event => window.__violations.push(
    `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
expect.set_options(timeout=PATIENCE_S * 1000)
LOOKS: dict[str, dict[str, Any]] = {
    "desktop-light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "telephone-light": {
        "viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True, "is_mobile": True,
    },
    "telephone-dark": {
        "viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True,
    },
}  # fmt: skip
_SMALL_TEXT = """() => [...document.querySelectorAll("body *")]
  .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
  .filter(one => one.getClientRects().length)
  .filter(one => parseFloat(getComputedStyle(one).fontSize) < 11.5)
  .map(one => one.outerHTML.slice(0, 120))"""
_CUT_OFF = """() => [...document.querySelectorAll("main button, main a, main input, main select, main textarea")]
  .filter(one => one.getClientRects().length && !one.closest(".hidden"))
  .filter(one => { const box = one.getBoundingClientRect(); return box.right > innerWidth + 1 || box.left < -1; })
  .map(one => one.outerHTML.slice(0, 120))"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """A page, with every message, error, failed request and request to elsewhere that it made."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda told: self._note(f"{told.type}: {told.text}", told.type in ("error", "warning")))
        page.on("pageerror", lambda error: self._note(f"error: {error}"))
        page.on("requestfailed", lambda asked: self._note(f"failed: {asked.url} {asked.failure}", not _is_ended(asked)))
        page.on("request", lambda asked: self._note(f"elsewhere: {asked.url}", not asked.url.startswith(origin)))

    def _note(self, text: str, is_one: bool = True) -> None:
        if is_one:
            self.complaints.append(f"{text} at {self.page.url}")

    async def faults(self, *, by_axe: bool = True) -> list[str]:
        """What is wrong with the page as it stands, in words; none of a good one. It is left for another afterwards."""
        found = [f"policy: {one}" for one in await self.page.evaluate("window.__violations")]
        found += self.complaints
        found += [f"too small to read: {one}" for one in await self.page.evaluate(_SMALL_TEXT)]
        found += [f"cut off: {one}" for one in await self.page.evaluate(_CUT_OFF)]
        width, seen = await self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if width > seen:
            found.append(f"scrolls sideways: {width} of {seen}")
        if count := await self.page.locator("[hidden]:visible").count():
            found.append(f"{count} hidden things show")
        return found + (await self._axe() if by_axe else [])

    async def _axe(self) -> list[str]:
        await self.page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text())
        told = await self.page.evaluate(_AXE, [_ALIKE, _RULES])
        return [f"axe {one['id']}: {node['html'][:160]}" for one in told for node in one["nodes"]]


@asynccontextmanager
async def watched_page(
    browser: Browser, origin: str, look: str = "desktop-light", **more: Any
) -> AsyncIterator[Watched]:
    """In a browser's profile of its own."""
    context = await browser.new_context(**LOOKS[look], reduced_motion="reduce", base_url=origin, **more)
    context.set_default_timeout(PATIENCE_S * 1000)
    try:
        await context.add_init_script(_WATCH)
        yield Watched(await context.new_page(), origin)
    finally:
        await context.close()


def _is_ended(asked: Any) -> bool:
    """A page that is left ends what it still asks."""
    return "ERR_ABORTED" in (asked.failure or "")
