"""The dashboard in a real Chromium: figures, charts, orders, two sizes of screen, the keyboard alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lamina.coordinator.dashboard.hosting import SOCKET
from lamina.models.bundle import Bundle
from tests.conftest import missing
from tests.test_actions import Led
from tests.test_operator import Run, run_of, until
from tests.whole_federation import small_bundle

try:
    from playwright.async_api import Page, ViewportSize, async_playwright
except ImportError:
    async_playwright = None  # type: ignore[assignment] # the tests say so

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture(scope="module")
def chromium() -> str:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None or async_playwright is None:
        missing("Chromium and playwright (scripts/install-chromium.sh)")
    return program


@asynccontextmanager
async def page_of(chromium: str, run: Run, size: ViewportSize, scheme: str = "light") -> AsyncIterator[Page]:
    """A page that shows a run's dashboard."""
    async with page_at(chromium, run.settings.port, size, scheme) as page:
        yield page


@asynccontextmanager
async def page_at(chromium: str, port: int, size: ViewportSize, scheme: str = "light") -> AsyncIterator[Page]:
    """A page that shows the dashboard at a port; a warning or an error on its console fails the test."""
    async with async_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own refuses to run as root
        browser = await playwright.chromium.launch(executable_path=chromium, args=sandbox)
        page = await browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        await page.goto(f"http://127.0.0.1:{port}/")
        yield page
        await browser.close()
        assert said == []


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
async def test_it_shows_how_training_goes(
    chromium: str, tmp_path: Path, bundle: Bundle, unused_tcp_port: int, size: ViewportSize, scheme: str
) -> None:
    run = run_of(tmp_path, bundle, rounds=3000, port=unused_tcp_port)
    async with run.running():
        await until(lambda: len(run.rounds) > 4)
        async with page_of(chromium, run, size, scheme) as page:
            await page.wait_for_selector("#chart-intervals rect")
            await page.wait_for_function("document.querySelectorAll('#layers tbody tr').length === 3")
            assert await page.locator("#devices tbody tr").count() == 3
            for chart in ("judge", "loss", "curves", "bytes"):
                assert await page.locator(f"#chart-{chart} svg path").count() > 0
            assert await page.locator("#federation").inner_text() == "whole"
            first = int((await page.locator("#tile-round").inner_text()).split()[0])
            await page.wait_for_function(
                "first => parseInt(document.getElementById('tile-round').textContent) > first", arg=first
            )
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out


async def test_orders_ask_first_and_work_by_the_keyboard_alone(
    chromium: str, tmp_path: Path, bundle: Bundle, unused_tcp_port: int
) -> None:
    run = run_of(tmp_path, bundle, rounds=3000, port=unused_tcp_port)
    async with run.running(), page_of(chromium, run, DESKTOP) as page:
        await page.locator("#pause").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#confirm[open]")
        await page.keyboard.press("Escape")  # no
        assert (await run.overview()).state != "paused"
        await page.locator("#pause").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#resume:not([hidden])")
        assert await page.locator("#state").inner_text() == "Paused"
        await page.locator("#devices button", has_text="d1").click()
        await page.wait_for_selector("#device[open]")
        assert await page.locator("#device-name").inner_text() == "d1"
        await page.locator("#put-aside").click()
        await page.locator("#confirm button.strong").click()
        await page.wait_for_selector("#readmit:not([hidden])")
        assert (await run.overview()).aside == ("d1",)


async def test_it_says_that_the_coordinator_is_gone_and_goes_on_when_it_is_back(
    chromium: str, tmp_path: Path, bundle: Bundle, unused_tcp_port: int
) -> None:
    run = run_of(tmp_path, bundle, rounds=3000, port=unused_tcp_port)
    async with run.running():
        await until(lambda: len(run.rounds) > 2)
        async with async_playwright() as playwright:
            sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = await playwright.chromium.launch(executable_path=chromium, args=sandbox)
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{unused_tcp_port}/")
            await page.wait_for_selector("#chart-judge svg")
            await run.stop()
            await page.wait_for_selector("#trouble:not([hidden])")
            assert not (run.folder / SOCKET).exists()
            assert await page.locator("#trouble").inner_text() == (
                "The coordinator does not answer. This page goes on when it is back."
            )
            run.start()
            await page.wait_for_selector("#trouble[hidden]", state="attached", timeout=60_000)
            await browser.close()


async def test_a_model_is_deployed_from_the_page_after_a_question(
    chromium: str, tmp_path: Path, bundle: Bundle, unused_tcp_port: int
) -> None:
    led = Led(tmp_path, bundle)
    led.port = unused_tcp_port
    async with led.running():
        await led.until(lambda now: len(now.kept) > 0)
        async with page_at(chromium, led.port, DESKTOP) as page:
            await page.click("#deploy")
            await page.fill("#canary", "1")
            assert await page.locator("#round option").count() >= 3
            await page.click("#confirm button[value=no]")
            assert led.active() == [0, 0]
            await page.click("#deploy")
            await page.click("#confirm button[value=yes]")
            await page.locator("#model-state", has_text="is done").wait_for()
            assert led.active() == [1, 1]
            assert await page.locator("#answers tbody tr").count() == 2
            await page.screenshot(path=str(tmp_path / "deployed.png"), full_page=True)
            await page.click("#undo-deployment")
            await page.click("#confirm button[value=yes]")
            await page.locator("#model-state", has_text="No model is on the devices").wait_for()
