"""A real Chromium, without a screen, that reads the admin pages.

    with chromium() as chrome:
        chrome.open(url)
        chrome.click("button")

Debian's `chromium` and `chromium-driver`. Where there is none, tests are skipped; in CI they fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 60.0  # s for a page, on a machine that is busy with other things
HEIGHT = 900
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # it opens our own pages only, often as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--force-device-scale-factor=1",
)
CONTROLS = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"


def need() -> tuple[str, str]:
    """The programs. Without them there is nothing to try; where all is tried, that is a failure."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    if os.environ.get("CI"):
        pytest.fail("there is no chromium with chromedriver on this machine")
    pytest.skip("there is no chromium with chromedriver on this machine")


@attrs.define(eq=False)
class Chromium:
    """One browser window."""

    driver: Chrome

    def open(self, url: str) -> None:
        self.driver.get(url)

    @property
    def path(self) -> str:
        """Of the page that is shown."""
        return str(self.run("return location.pathname + location.search"))

    @property
    def text(self) -> str:
        """What a person reads."""
        return str(self.run("return document.body.innerText"))

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)  # type: ignore[no-untyped-call]

    def click(self, selector: str) -> None:
        """Click on the first element, and wait until the page that it leads to is there."""
        old = self.driver.find_element(By.TAG_NAME, "html")
        self.press(selector)
        self.wait(lambda: self._gone(old), f"a page after {selector}")

    def _gone(self, element: Any) -> bool:
        new = self.driver.find_elements(By.TAG_NAME, "html")
        return bool(new) and new[0].id != element.id and self.run("return document.readyState") == "complete"

    def press(self, selector: str) -> None:
        """Click on the first element; what comes of it is the caller's."""
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def fill(self, **fields: str) -> None:
        """Type into fields by their names."""
        for name, value in fields.items():
            field = self.driver.find_element(By.NAME, name)
            field.clear()
            field.send_keys(value)

    def wait(self, condition: Any, what: str) -> None:
        """Raises: AssertionError, with the page."""
        # A page that is just being replaced cannot be asked.
        waiting = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.02, ignored_exceptions=[WebDriverException])
        waiting.until(lambda _: condition(), what)

    # What it looks through

    def size(self, width: int, height: int = HEIGHT) -> None:
        self._cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def theme(self, theme: str) -> None:
        """ "light" or "dark", as the system of the visitor says."""
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def scripts(self, *, on: bool) -> None:
        self._cdp("Emulation.setScriptExecutionDisabled", value=not on)

    def zone(self, name: str) -> None:
        """The time zone of the visitor."""
        self._cdp("Emulation.setTimezoneOverride", timezoneId=name)

    def forget(self) -> None:
        """All cookies."""
        self._cdp("Network.clearBrowserCookies")

    def _cdp(self, command: str, **given: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, given)

    # What it says of a page

    def complaints(self) -> list[str]:
        """What the console has had since the last look: errors, what the policy refused, what was missing."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def hold_still(self) -> None:
        """Have the living parts of the page stay what they are: a control that is replaced is not the one looked at."""
        self.run("Element.prototype.replaceWith = () => {}")

    def overflow(self) -> list[str]:
        """What makes the document wider than its window."""
        found: list[str] = self.run(
            "const wide = document.documentElement.clientWidth, all = document.documentElement.scrollWidth;"
            "if (all <= wide) return [];"
            "return [`${all} px`, ...[...document.body.querySelectorAll('*')].filter(e =>"
            " !e.closest('.scroll, pre, svg') && Math.max(e.getBoundingClientRect().right, e.scrollWidth) > wide)"
            ".map(e => e.outerHTML.slice(0, 120))]"
        )
        return found

    def axe(self, source: str, *rules: str) -> list[str]:
        """What axe finds that is serious or critical; by some rules only, or by all."""
        self.hold_still()
        if not self.run("return typeof axe !== 'undefined'"):
            self._cdp("Runtime.evaluate", expression=source)
        found = self.driver.execute_async_script(  # type: ignore[no-untyped-call]
            "const [rules, done] = arguments, some = rules.length ? {runOnly: rules} : {};"
            "axe.run(document, {resultTypes: ['violations'], ...some}).then(r => done(r.violations.map("
            " v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary)])))",
            list(rules),
        )
        return [f"{name}: {nodes}" for impact, name, nodes in found if impact in ("serious", "critical")]

    def out_of_reach(self) -> list[str]:
        """The controls of a page that Tab never comes to."""
        self.hold_still()
        self.run(
            "window.wanted = new Set([...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()"
            " && !e.disabled)); document.activeElement.blur();"
            "document.addEventListener('focusin', e => window.wanted.delete(e.target))",
            CONTROLS,
        )
        for _ in range(4):
            left = int(self.run("return window.wanted.size"))
            if not left:
                break
            keys = ActionChains(self.driver, duration=0)
            for _ in range(left + 10):
                keys.send_keys(Keys.TAB)
            keys.perform()
        missed: list[str] = self.run("return [...window.wanted].map(e => e.outerHTML.slice(0, 120))")
        return missed


@contextlib.contextmanager
def chromium(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[Chromium]:
    """A browser for the length of a block."""
    browser, driver = need()
    chosen = ChromeOptions()
    chosen.binary_location = browser
    for option in (*OPTIONS, *options):
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = Chrome(options=chosen, service=Service(driver, env=dict(environment) if environment else None))
    started.set_script_timeout(PATIENCE)
    try:
        yield Chromium(started)
    finally:
        started.quit()
