"""A headless Chromium in which a test opens pages, clicks and types: spoken to through pipes, without any library."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
    "--window-size=1280,900",
)  # fmt: skip
SECONDS = 60  # for anything that is waited for


class Navigated(Exception):
    """The page was left while an expression was evaluated on it."""


class Browser:
    """One page of a running Chromium; `messages` are what its console, its errors and its dialogs said."""

    def __init__(self, to: int, back: int, downloads: Path):
        self._to, self._back, self.downloads = to, back, downloads
        self._number, self._rest, self._session = 0, b"", None
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the Chrome DevTools Protocol."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated(method, answer)
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 20)
            assert part, "Chromium is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(str(about["exceptionDetails"]["exception"].get("description")))
        elif event.get("method") == "Log.entryAdded":
            self.messages.append(about["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(value.get("value")) for value in about["args"]))
        elif event.get("method") == "Page.javascriptDialogOpening":
            self.messages.append(about["message"])
            self._session and self.call("Page.handleJavaScriptDialog", accept=True)

    def open(self, page: Path) -> None:
        """Show a file, and wait until it is there."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def reload(self) -> None:
        """Show the same page again, and wait until it is there."""
        self.value("window.isOld = true")
        self.call("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def value(self, script: str) -> Any:
        """What an expression of JavaScript comes to on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + SECONDS
        while not self._holds(script):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)

    def _holds(self, script: str) -> bool:
        try:
            return bool(self.value(script))
        except Navigated:
            return False

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of the first element that the selector names."""
        box = self.value(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key: a letter, or the name of one, such as ArrowRight."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def choose(self, selector: str, value: object) -> None:
        """Set a drop-down list to the option of this value, as a user who picks it."""
        self.value(
            f"(() => {{ const s = document.querySelector({json.dumps(selector)}); s.value = {json.dumps(str(value))};"
            " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def downloaded(self, name: str) -> bytes:
        """The content of a file that the page has saved, once it is whole."""
        end, path = time.monotonic() + SECONDS, self.downloads / name
        while not path.exists() or list(self.downloads.glob("*.crdownload")):
            assert time.monotonic() < end, f"{name} was never saved"
            time.sleep(0.05)
        content = path.read_bytes()
        path.unlink()
        return content

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(downloads: Path) -> Iterator[Browser]:
    """A Chromium of its own.  Skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    there, back = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *OPTIONS, f"--user-data-dir={profile}"]
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec 3<&{there[0]} 4>&{back[1]}; exec "$@"', "bash", *command]
        process = subprocess.Popen(
            shell, pass_fds=(there[0], back[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there[0])
        os.close(back[1])
        try:
            yield Browser(there[1], back[0], downloads)
        finally:
            os.close(there[1])
            process.kill()
            process.wait()
            os.close(back[0])
