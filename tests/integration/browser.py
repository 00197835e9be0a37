"""A real browser for the tests of pages: Debian's Chromium, by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
"""In CSS pixels."""

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install it (Debian: apt-get install chromium)"
)


@contextmanager
def browser() -> Iterator[Browser]:
    """One without a window, that plays sound without a click and without a device."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--mute-audio",
                "--disable-dev-shm-usage",
            ],
        )
        try:
            yield started
        finally:
            started.close()


class Watched:
    """A page, with all that went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda told: told.type == "error" and self.problems.append(told.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("requestfailed", self._failed)

    def _failed(self, request: object) -> None:
        failure = getattr(request, "failure", None)
        if failure != "net::ERR_ABORTED":  # a page that was left
            self.problems.append(f"{getattr(request, 'url', '')}: {failure}")
