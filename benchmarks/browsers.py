"""Headless Chromium: a page or a person at one, what it looks like, and whether it is accessible."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
WIDTHS = {"desktop": (1200, 900), "phone": (360, 740)}

# What is wrong with a page's layout: it scrolls sideways, something sticks out, text is cut, or two things overlap.
# What lies in a part that scrolls by itself is compared with its like alone.
LAYOUT = """
const root = document.documentElement, wide = root.clientWidth, faults = [];
const name = (each) => `${each.tagName.toLowerCase()}#${each.id}.${each.className} ${each.textContent.slice(0, 20)}`;
const seen = (each) => each.checkVisibility() && each.getClientRects().length;
const scrolls = (each) => /auto|scroll/.test(getComputedStyle(each).overflowX) && each.scrollWidth > each.clientWidth
  || /auto|scroll/.test(getComputedStyle(each).overflowY) && each.scrollHeight > each.clientHeight;
const around = (each) => {
  for (let p = each.parentElement; p; p = p.parentElement) if (scrolls(p)) return p;
  return root;
};
const all = [...document.querySelectorAll("main *")].filter(seen);
if (root.scrollWidth > wide) faults.push(`scrolls to ${root.scrollWidth} of ${wide}`);
for (const each of all) {
  const box = each.getBoundingClientRect(), hides = /hidden|clip/.test(getComputedStyle(each).overflowX);
  if ((box.left < -1 || box.right > wide + 1) && around(each) === root) faults.push(`sticks out: ${name(each)}`);
  if (hides && each.clientWidth && each.scrollWidth > each.clientWidth + 1) faults.push(`cut: ${name(each)}`);
}
const solid = all.filter((each) => each.matches("button,input,select,textarea,li,p,h1,h2,summary,td,th,legend,text"))
  .map((each) => ({each, box: each.getBoundingClientRect(), part: around(each)})).sort((a, b) => a.box.top - b.box.top);
solid.forEach((one, at) => {
  for (const other of solid.slice(at + 1)) {
    if (other.box.top > one.box.bottom - 2) break;
    if (one.part !== other.part || one.each.contains(other.each) || other.each.contains(one.each)) continue;
    const x = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
    const y = Math.min(one.box.bottom, other.box.bottom) - other.box.top;
    if (x > 2 && y > 2) faults.push(`overlap: ${name(one.each)} and ${name(other.each)}`);
  }
});
return faults;
"""
AXE = """
const done = arguments[0];
const failed = (error) => done([{id: String(error), impact: "critical", nodes: []}]);
axe.run(document).then((found) => done(found.violations), failed);
"""


class Browser:
    """A browser at the page `link`."""

    def __init__(self, link: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        assert CHROMIUM and DRIVER
        options = Options()
        options.binary_location = CHROMIUM
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(600)  # axe-core on a large page, on a busy machine
        self.driver.set_window_size(*WIDTHS["desktop"])
        self.driver.get(link)

    def all(self, css: str) -> list[Any]:
        """The visible elements that `css` selects."""
        from selenium.webdriver.common.by import By

        return [each for each in self.driver.find_elements(By.CSS_SELECTOR, css) if each.is_displayed()]

    def until(self, holds: Callable[[], Any], seconds: float = 120) -> Any:
        """What `holds` gives, once that is something. A page that changes meanwhile is looked at again."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + seconds
        while True:
            try:
                if found := holds():
                    return found
            except (WebDriverException, IndexError):  # the page changes, or has not come yet
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                raise TimeoutError(f"nothing came within {seconds:g} s at a page that says: {self.text[:500]}")
            time.sleep(0.05)

    def click(self, css: str) -> None:
        def clicked() -> bool:
            if found := self.all(css):
                found[0].click()
            return bool(found)

        self.until(clicked)

    def write(self, text: str, css: str = "textarea") -> None:
        """Puts `text` into a field, as typed."""
        field = self.until(lambda: self.all(css))[0]
        field.clear()
        field.send_keys(text)

    def choose(self, name: str, value: str) -> None:
        """Chooses an option of the list of this name."""
        self.choose_by(f"select[name='{name}']", value)

    def choose_by(self, css: str, value: str) -> None:
        """Chooses an option of a list."""
        from selenium.webdriver.support.select import Select

        self.until(lambda: Select(self.all(css)[0]).select_by_value(value) or True)

    @property
    def text(self) -> str:
        return str(self.all("main")[0].text)

    @property
    def status(self) -> str:
        return str(self.all("#status")[0].text)

    def says(self, words: str) -> None:
        """Waits until the page says `words`."""
        self.until(lambda: words in self.text)

    def look(self, scheme: str, screen: str, path: Path | None = None) -> list[str]:
        """What is wrong with the page's layout in a colour scheme on a screen of WIDTHS; a picture goes to `path`."""
        wide, high = WIDTHS[screen]
        size = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": screen == "phone"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        faults: list[str] = self.driver.execute_script(LAYOUT)
        if path is not None:
            self.driver.save_screenshot(str(path))
        return faults

    def accessible(self) -> list[str]:
        """The findings of axe-core on the page, serious and critical ones; of this colour scheme."""
        import axe_core_python

        source = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
        self.driver.execute_script(source)
        found = self.driver.execute_async_script(AXE)
        return [
            f"{each['id']} ({each['impact']}): {[node['html'][:80] for node in each['nodes'][:2]]}"
            for each in found if each["impact"] in ("serious", "critical")
        ]  # fmt: skip

    def errors(self) -> list[str]:
        """What the browser's console complained of: script errors, and what the content security policy stopped."""
        return [
            each["message"] for each in self.driver.get_log("browser")
            if "net::ERR" not in each["message"] and "status of 4" not in each["message"]
        ]  # fmt: skip

    def quit(self) -> None:
        self.driver.quit()


class Person(Browser):
    """A person at a browser of their own, who joins the table by `link`."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.click("#join")
        self.until(lambda: self.driver.current_url.endswith("/play"))
        self.url = self.driver.current_url
