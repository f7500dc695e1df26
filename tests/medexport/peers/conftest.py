"""A headless Chromium on two pipes: its DevTools protocol needs no other program."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60


class Chromium:
    """One page. `requests` are the addresses that it asked for, `messages` what its console said of errors."""

    def __init__(self, width: int = 900, height: int = 1400) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.count = 0
        self.rest = b""
        self.place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self.out = os.pipe()
        self.into, from_browser = os.pipe()
        switches = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--window-size={width},{height}"]
        switches += [f"--user-data-dir={self.place.name}", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]

        def pipes() -> None:
            # The protocol's own numbers: it reads from 3 and writes to 4.
            ends = os.dup(to_browser), os.dup(from_browser)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, *switches],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
        self.place.cleanup()

    def ask(self, method: str, **words: Any) -> Any:
        """Have the page do something."""
        return self._ask(method, self.session, **words)

    def open(self, address: str) -> None:
        """Go to an address."""
        self.ask("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression, or the promise that it gives, comes to."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: {self.value('document.body.innerText')}; {self.messages}")
            time.sleep(0.1)

    def screenshot(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _ask(self, method: str, session: str | None = None, **words: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": words}
        message |= {"sessionId": session} if session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self.count:
                if "error" in told:
                    raise RuntimeError(told["error"])
                return told["result"]
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            case "Log.entryAdded":
                self.messages.append(told["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.messages.append(str(told["params"]["exceptionDetails"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.into, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
def page():
    """A page of a headless Chromium."""
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    with Chromium() as chromium:
        yield chromium
