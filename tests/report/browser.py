"""Debian's Chromium, headless, with what it logs and asks of the network."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One window. `open` waits until the page has drawn all that it can."""

    def __init__(self, profile: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        assert chromium is not None
        assert driver is not None
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(driver))

    def open(self, page: Path | str, *, width: int = 1280, scheme: str = "light") -> None:
        """page: a file, or the address of one."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(page if isinstance(page, str) else page.resolve().as_uri())
        drawn = "return document.documentElement.dataset.drawn !== undefined"
        WebDriverWait(self.driver, 60).until(lambda driver: driver.execute_script(drawn))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def console(self) -> list[str]:
        """Warnings and errors since `open`."""
        return [line["message"] for line in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since `open`; not what the browser's own first tab did."""
        messages = (json.loads(x["message"])["message"] for x in self.driver.get_log("performance"))
        sent = (x["params"] for x in messages if x["method"] == "Network.requestWillBeSent")
        asked = [x["request"]["url"] for x in sent]
        return [url for url in asked if not url.startswith("chrome:")]


def require_browser() -> None:
    """Skip where Chromium is not installed, or fail under REQUIRE_BROWSER=1."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        message = f"{' and '.join(missing)} not installed: no page is tried in a browser"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
