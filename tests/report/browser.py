"""Drives headless Chromium over its DevTools pipe: no package beyond the browser is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Elements that stick out of the page at the right and cannot be scrolled to inside a table.
_CUT_OFF = """[...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + " " + e.textContent.slice(0, 40))"""
# In screen pixels, with the scale at which a chart is shown.
_SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll("svg text, p, td, th, figcaption")]
  .map(e => parseFloat(getComputedStyle(e).fontSize)
    * (e.ownerSVGElement ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : 1)))"""


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. Messages are JSON ended by a zero byte, on the browser's descriptors 3 and 4."""

    def __init__(self, executable: str, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = (
            f'exec "$0" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage '
            f"--hide-scrollbars --remote-debugging-pipe --user-data-dir={self._profile.name} "
            f"about:blank 3<&{to_browser} 4>&{from_browser}"
        )
        # Only a shell can number the descriptors without running Python code after fork.
        self._process = subprocess.Popen(
            ["bash", "-c", command, executable], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._write)  # Chromium ends when its pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + self._timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("the browser gave no answer")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method and returns its result; events that come before it are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, width: int, scheme: str = "light", scale: float = 1.0) -> None:
        """Shows a file in a window of ``width``; returns when it has loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=844,
                  deviceScaleFactor=scale, mobile=width < 600)  # fmt: skip
        self.send("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def screenshot(self, path: Path, top: float = 0.0, height: float | None = None) -> None:
        """Writes the page (or ``height`` pixels of it from ``top``) as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "scale": 1,
                "height": min(height or size["height"], size["height"] - top)}  # fmt: skip
        image = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))

    def complaints(self) -> list[str]:
        """What the console would show: errors, warnings, exceptions."""
        self.send("Runtime.evaluate", expression="0")  # events sent so far arrive before its answer
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(parameters["exceptionDetails"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(f"console.{parameters['type']}")
        return found

    def requests(self) -> list[str]:
        """Addresses asked for, other than data inside the page."""
        sent = (e["params"]["request"]["url"] for e in self.events
                if e["method"] == "Network.requestWillBeSent")  # fmt: skip
        return [url for url in sent if not url.startswith("data:")]


def assert_shows_well(report: Path, folder: Path) -> None:
    """A page is whole on desktop and phone, light and dark, and asks for nothing else."""
    with Browser(find_browser() or "") as browser:
        backgrounds = set()
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                browser.open(report, width, scheme)
                assert browser.complaints() == []
                assert browser.requests() == [report.resolve().as_uri()]
                assert browser.evaluate("document.documentElement.scrollWidth") == width
                assert browser.evaluate(_CUT_OFF) == []
                assert browser.evaluate(_SMALLEST_TEXT) >= 9
                style = "getComputedStyle(document.body)"
                backgrounds.add((scheme, browser.evaluate(f"{style}.backgroundColor")))
                picture = folder / f"{width}_{scheme}.png"
                browser.screenshot(picture)
                assert picture.stat().st_size > 100_000
        assert len({color for _, color in backgrounds}) == len(backgrounds) == 2
