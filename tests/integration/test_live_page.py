"""The live page in a real browser, with the demo's shoppers; with PAGE_IMAGES=FOLDER its pictures are kept there."""

import io
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.eventlog.memory.log import MemoryLog
from engine.settings.sections import ServeSettings, Settings
from producers.demo.run import Demo, demo_settings
from producers.demo.shop_page import open_page
from producers.simulation.shoppers import SimulationSettings
from tests.waiting import LIMIT_S, until

webdriver = pytest.importorskip("selenium.webdriver", reason="drives a browser: pip install 'headrace[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
)
WITHIN_MS = 1_000
DESKTOP, PHONE = (1280, 900), (360, 780)
CONTRAST = Path(__file__).with_name("contrast.js").read_text()


class EndlessDemo(Demo):
    """A demo that ends when the test does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ended = threading.Event()

    def _ticks(self, seconds: float | None, worker: Any) -> Iterator[float]:
        for elapsed_s in super()._ticks(seconds, worker):
            if self.ended.is_set():
                return
            yield elapsed_s


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the page of a running demo."""
    settings = demo_settings(Settings(serve=ServeSettings(port=0)))
    simulation, log = SimulationSettings(shoppers=40, clicks_per_s=30.0, new_items=0.0), MemoryLog()
    demo = EndlessDemo(settings, simulation, log)
    with open_page(settings, simulation, log) as server, ThreadPoolExecutor(1) as pool:
        run = pool.submit(demo.run, None)
        try:
            yield f"{server.address}/"
        finally:
            demo.ended.set()
        run.result(LIMIT_S)


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, service=webdriver.ChromeService(str(DRIVER)))
    resize(driver, DESKTOP)
    driver.get(address)
    until(lambda: text(driver, "status-text") == "live")
    yield driver
    driver.quit()


def resize(driver: Any, size: tuple[int, int]) -> None:
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def scheme(driver: Any, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def text(driver: Any, name: str) -> str:
    return str(driver.find_element("id", name).text)


def rows(driver: Any, name: str) -> list[str]:
    script = "return [...document.getElementById(arguments[0]).children].map((row) => row.textContent)"
    return [*driver.execute_script(script, name)]


def keep_picture(driver: Any, name: str) -> None:
    """Take a picture; keep it, with few colours, where PAGE_IMAGES says."""
    picture = driver.get_screenshot_as_png()
    assert len(picture) > 10_000
    if folder := os.environ.get("PAGE_IMAGES"):
        images = pytest.importorskip("PIL.Image")
        with images.open(io.BytesIO(picture)) as image:
            image.convert("RGB").quantize(96).save(Path(folder) / f"{name}.png", optimize=True)


def test_an_item_that_a_crowd_clicks_trends(browser: Any, address: str) -> None:
    with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
        for number in range(60):
            answer = client.post("/v1/clicks", json={"user": f"crowd-{number}", "item": "item-01234"})
            assert answer.status_code == 202
    until(lambda: any(row.startswith("item-01234") for row in rows(browser, "trending")))
    assert "\N{MULTIPLICATION SIGN} " in text(browser, "trending")


def test_figures_a_user_and_the_map_come_to_life(browser: Any) -> None:
    until(lambda: float(text(browser, "clicks-rate")) > 5)
    until(lambda: "%" in text(browser, "next-clicks"))
    until(lambda: len(rows(browser, "list")) == 10 and rows(browser, "window"))
    assert text(browser, "release") == "two-hop-demo"
    assert float(text(browser, "p50")) < WITHIN_MS
    assert any("because of item-" in row for row in rows(browser, "list"))
    until(lambda: "interests of shopper-" in browser.find_element("id", "map").get_attribute("aria-label"))
    assert painted(browser) > 0.02
    keep_picture(browser, "live-page")


def test_a_shopper_needs_no_mouse_and_the_list_follows_within_the_second(browser: Any) -> None:
    browser.find_element("id", "shop").send_keys("\ue007")  # Enter
    until(lambda: len(rows(browser, "list")) == 10 and "Your list" in text(browser, "list-title"))
    for _ in range(3):
        before, said = rows(browser, "list"), text(browser, "shop-note")
        browser.find_element("css selector", "#list button").send_keys("\ue007")
        until(lambda said=said: text(browser, "shop-note") != said)  # type: ignore[misc]
        assert rows(browser, "list") != before
        milliseconds = int(text(browser, "shop-note").removeprefix("Your list changed ").split(" ms")[0])
        assert milliseconds < WITHIN_MS
    until(lambda: len(rows(browser, "window")) == 3)
    keep_picture(browser, "live-page-shopper")


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_has_contrast_and_controls_have_names(browser: Any, name: str) -> None:
    scheme(browser, name)
    assert browser.execute_script(CONTRAST) == []
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('button, input, canvas, svg[role=img]')].filter((control) =>"
        " !(control.labels?.length || control.textContent.trim() || control.getAttribute('aria-label')))"
        ".map((control) => control.outerHTML)"
    )
    assert unnamed == []
    if name == "dark":
        keep_picture(browser, "live-page-dark")
    scheme(browser, "light")


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any) -> None:
    resize(browser, PHONE)
    wide = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((node) => node.getClientRects().length"
        " && !node.matches('.skip, .skip *') && node.getBoundingClientRect().right > innerWidth + 1)"
        ".map((node) => node.outerHTML.slice(0, 80))"
    )
    assert wide == []
    keep_picture(browser, "live-page-phone")
    resize(browser, DESKTOP)


def test_the_browser_has_nothing_to_complain_of_and_asks_nobody_else(browser: Any, address: str) -> None:
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((address, "data:"))] == []
    assert browser.get_log("browser") == []


def painted(driver: Any) -> float:
    """Share of the map's pixels that have a colour."""
    script = (
        "const map = document.getElementById('map');"
        "const pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;"
        "let count = 0; for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0;"
        "return count / (pixels.length / 4)"
    )
    return float(driver.execute_script(script))
