"""Chromium without a window, driven by the DevTools protocol over two pipes: no further package is needed."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time


def find_chromium():
    """Return the path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None) if os.name == "posix" else None


class Browser:
    """One tab of a Chromium with an empty profile."""

    def __init__(self, program, folder):
        to_it, from_it = os.pipe(), os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
                   "--disable-background-networking", "--disable-component-update", "--use-fake-device-for-media-stream",
                   "--use-fake-ui-for-media-stream", f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
        start = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
        command = [sys.executable, "-c", start, str(to_it[0]), str(from_it[1]), program, *options]
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(to_it[0], from_it[1]), start_new_session=True, **nowhere)
        os.close(to_it[0])
        os.close(from_it[1])
        self.out, self.input = os.fdopen(to_it[1], "wb", buffering=0), os.fdopen(from_it[0], "rb", buffering=0)
        self.number, self.session, self.answers, self.events, self.received = 0, None, {}, [], threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def _listen(self):
        rest = b""
        while chunk := self.input.read(1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            with self.received:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.received.notify_all()

    def call(self, method, **parameters):
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": parameters}
        self.out.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        with self.received:
            assert self.received.wait_for(lambda: number in self.answers, 60), f"no answer to {method}"
            answer = self.answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def js(self, expression):
        """Evaluate JavaScript in the page; None if it fails."""
        return self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"].get("value")

    def wait(self, expression, seconds=40):
        deadline = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, f"waited in vain for {expression} on {self.js('document.body.innerText')}"
            time.sleep(0.03)
        return value

    def open(self, url, width=1200, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete' && !!document.getElementById('images')")

    def give(self, *files):
        """Choose files in the page's file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector="#images")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=[os.fspath(file) for file in files])

    def text(self, selector):
        """Return the text of an element once it is there."""
        return self.wait(f"document.querySelector({json.dumps(selector)})?.innerText")

    def screenshot(self, path, whole=True):
        """Write a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.session = None
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
