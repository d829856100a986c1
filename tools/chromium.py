"""Debian's Chromium, driven without a further dependency: the DevTools protocol over two pipes.

Chromium started with `--remote-debugging-pipe` reads commands from descriptor 3 and writes answers and events to
descriptor 4, each a JSON text that a NUL ends. `unavailable` says in one line why it cannot be had here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools import debian

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 60
"""A page of 1,000 runs on a busy machine takes a while to draw."""
REQUIRE = "TOUCHLINE_REQUIRE_CHROMIUM"
"""Set to 1 where a browser that is missing is a failure and no reason to skip."""

# Descriptors 3 and 4 are what the browser takes; pytest may hold them for itself, so another process moves them there.
_TRAMPOLINE = """
import os, sys
read, write = int(sys.argv[1]), int(sys.argv[2])
high = [os.dup(read), os.dup(write)]
while min(high) < 5:
    high = [os.dup(each) for each in high]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--mute-audio",
)


def program() -> str | None:
    """Where the browser is; None when there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name)) is not None), None)


def unavailable() -> str | None:
    """Why there is no browser here, in one line, after trying to install it; None when there is one."""
    return debian.install(lambda: () if program() is not None else ("chromium", "fonts-dejavu-core"))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, ended with everything that it started."""
    path = program()
    if path is None:
        raise FileNotFoundError("there is no Chromium here")
    to_read, to_us = os.pipe(), os.pipe()
    command = [sys.executable, "-c", _TRAMPOLINE, str(to_read[0]), str(to_us[1]), path, *_OPTIONS]
    if os.geteuid() == 0:
        # Its sandbox does not work for root.
        command.append("--no-sandbox")
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_read[0], to_us[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    os.close(to_read[0])
    os.close(to_us[1])
    started = Browser(to_read[1], to_us[0])
    try:
        yield started
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            started.send("Browser.close")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_read[1])
        os.close(to_us[0])


class Browser:
    """The browser's end of the two pipes."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._last = 0
        self._bytes = b""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            got = self._next(until)
            if got.get("id") != self._last:
                self.events.append(got)
            elif "error" in got:
                raise RuntimeError(f"{method}: {got['error']}")
            else:
                result: dict[str, Any] = got["result"]
                return result

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._bytes:
            if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise OSError("the browser has ended")
            self._bytes += chunk
        text, _, self._bytes = self._bytes.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def tab(self, *, width: int = 1240, height: int = 900) -> Tab:
        """A new, empty tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, session, width, height)


_WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.sample}`));
window.asked = [];
for (const name of ["alert", "confirm", "prompt"]) window[name] = (text) => asked.push(`${name} ${text}`);
"""


class Tab:
    """One page."""

    def __init__(self, owner: Browser, session: str, width: int, height: int) -> None:
        self._owner, self._session = owner, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        self.size(width, height)

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """A command to this page."""
        return self._owner.send(method, self._session, **params)

    def size(self, width: int, height: int = 900) -> None:
        """How large the window is, in CSS pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, *, scheme: str = "light", kind: str = "") -> None:
        """`dark` or `light` paper; `print` or nothing."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=kind, features=features)

    def open(self, path: Path) -> None:
        """Load a file and wait until its figures are drawn."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        got = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise RuntimeError(json.dumps(got["exceptionDetails"])[:600])
        return got["result"].get("value")

    def wait(self, expression: str, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > until:
                raise TimeoutError(f"never came true: {expression}")
            time.sleep(0.05)

    def move(self, x: float, y: float) -> None:
        """Move the pointer there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press and release the button there."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element's middle is on the screen, after it was brought there."""
        script = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.evaluate(script)
        return x, y

    def screenshot(self, path: Path, top: float = 0, height: float | None = None) -> None:
        """The whole page from top to bottom, or a part of it, in CSS pixels."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1}
        got = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(got["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        got = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(got["data"]))

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            e["params"] for e in self._owner.events if e.get("sessionId") == self._session and e["method"] == method
        ]

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for, but the data in the page itself."""
        self.evaluate("1")
        asked = [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith("data:")]

    @property
    def errors(self) -> list[str]:
        """Exceptions, and whatever the page complained of."""
        self.evaluate("1")
        thrown = [event["exceptionDetails"].get("text", "") for event in self._events("Runtime.exceptionThrown")]
        logged = [f"{e['entry']['level']} {e['entry']['text']}" for e in self._events("Log.entryAdded")]
        told = [
            str([argument.get("value") for argument in event["args"]])
            for event in self._events("Runtime.consoleAPICalled")
            if event["type"] in ("error", "warning", "assert")
        ]
        return [*thrown, *logged, *told]


Opened = Callable[[Path], Tab]
