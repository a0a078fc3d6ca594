"""A browser and a JupyterLab, driven by mouse and keys: for tests, and for benchmarks that act as a user does.

Headless Chromium is driven by its own protocol (Chrome DevTools). Nothing here needs pytest.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --remote-allow-origins=* "
    "--window-size=1400,1000"
).split()
SETTINGS = {
    # All cells are in the page, also those out of sight; no dialogue asks about news.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


READY = (
    "document.querySelector('.jp-Toolbar-kernelName')?.innerText.startsWith('Python')"
    " && document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
)


def find_browser():
    """The program to run, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def jupyterlab(folder):
    """The address of a JupyterLab of its own with copies of all notebooks; what they write goes into `folder`."""
    (folder / "notebooks").mkdir()
    for file in ROOT.glob("notebooks/*.ipynb"):
        shutil.copy(file, folder / "notebooks")
    for name, text in SETTINGS.items():
        file = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces"),
    }
    own |= {"WEAKSEG_QUICK": "1", "WEAKSEG_RESULTS": str(folder / "results")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = f"--no-browser --allow-root --ip=127.0.0.1 --port={address.rpartition(':')[2]} --IdentityProvider.token="
    options += " --expose-app-in-browser"
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options.split(), str(folder / "notebooks")],
            env=os.environ | own | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: _answers(server, address), 120, "JupyterLab does not start")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _answers(server, address):
    assert server.poll() is None, "JupyterLab has ended by itself"
    try:
        with urlopen(f"{address}/api", timeout=5):
            return True
    except OSError:
        return False


class Page:
    """One page of a browser of its own. `folder` (Path): for its profile."""

    def __init__(self, program, folder, timeout=60):
        self.process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = wait_for(lambda: _port(folder), timeout, "Chromium does not start")
            with urlopen(f"http://127.0.0.1:{port}/json", timeout=timeout) as answer:
                address = next(p for p in json.load(answer) if p["type"] == "page")["webSocketDebuggerUrl"]
            import websocket  # only where there is a browser

            self.socket = websocket.create_connection(address, timeout=timeout)
        except BaseException:
            self.process.kill()
            raise
        self.calls = 0

    def close(self):
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def call(self, method, **parameters):
        """One call of the protocol; returns its result. What the page says of itself meanwhile is left unread."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.calls:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address):
        self.call("Page.navigate", url=address)

    def run(self, script):
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key, code, modifiers=0):
        """Press a key where the focus is: its name, like "ArrowRight", and its virtual key code, like 39.

        modifiers: the sum of 1 (Alt), 2 (Ctrl), 4 (Meta), 8 (Shift).
        """
        key = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def drag(self, *points):
        """Press the left button at the first of `points` (x, y of the window), move over the others, release it."""
        for kind, (x, y) in [
            ("Moved", points[0]),
            ("Pressed", points[0]),
            *(("Moved", p) for p in points[1:]),
        ]:
            self._mouse(kind, x, y, button="none" if kind == "Moved" and (x, y) == points[0] else "left")
        self._mouse("Released", *points[-1], button="left")

    def click(self, x, y):
        self.drag((x, y))

    def wheel(self, x, y, down, modifiers=0):
        """Turn the wheel over a place by `down` px. modifiers: as in `press`."""
        self._mouse("Wheel", x, y, deltaX=0, deltaY=down, modifiers=modifiers)

    def _mouse(self, kind, x, y, **options):
        if options.get("button") == "left":
            options |= {"clickCount": 1, "buttons": int(kind != "Released")}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **options)

    def wait(self, script, timeout, problem):
        """Wait until an expression is true; its value."""
        return wait_for(lambda: self.run(script), timeout, problem)

    def save_picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def wait_for(ask, timeout, problem, pause=0.3):
    """Ask again and again until the answer is true; return it. AssertionError with `problem` after `timeout` s."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(pause)
    raise AssertionError(f"{problem} (waited {timeout} s)")


def _port(folder):
    file = folder / "DevToolsActivePort"
    lines = file.read_text().splitlines() if file.is_file() else []
    return lines[0] if len(lines) > 1 else None


def open_notebook(page, address, folder, name, source):
    """Open a notebook with one cell in the JupyterLab at `address`, whose `folder` it is, once its kernel is there."""
    cell = {"cell_type": "code", "id": "a", "source": source, "metadata": {}, "outputs": []}
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    text = {
        "cells": [cell | {"execution_count": None}],
        "metadata": about,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(text))
    page.run("window.onbeforeunload = null; true")
    page.open(f"{address}/lab/tree/{name}.ipynb?reset")
    page.wait(READY, 120, "the kernel does not start")
    page.run("window.problems = []; addEventListener('error', (e) => window.problems.push(e.message)); true")
    page.run("jupyterapp.commands.execute('application:toggle-left-area'); true")


def run_annotator(page):
    """Run all cells, and wait for the annotator that the last of them shows."""
    page.run("jupyterapp.commands.execute('notebook:clear-all-cell-outputs').then(() => true)")
    page.wait("!document.querySelector('.weakseg')", 30, "the earlier annotator stays")
    page.run("jupyterapp.commands.execute('notebook:run-all-cells'); true")
    page.wait("!!document.querySelector('.weakseg canvas.xy[data-shown]')", 60, "no annotator")


def problems(page):
    """What went wrong in the page since `open_notebook`, and what the notebook's cells say in red (list of str)."""
    return page.run(
        "[...window.problems, ...[...document.querySelectorAll('[data-mime-type*=error], [data-mime-type*=stderr]')]"
        ".map((e) => e.innerText)]"
    )


def place(page, plane, z, y, x, shape, voxel_size):
    """Where the low corner of a voxel is in the window, (x, y) px. plane: "xy", "zy" or "zx"."""
    left, top, width, height, scale, *centre = page.run(
        f"(({{x, y, width, height}}, {{scale, centre}}) => [x, y, width, height, scale, ...centre.split(' ')]"
        f".map(Number))(document.querySelector('.weakseg canvas.{plane}').getBoundingClientRect(),"
        " document.querySelector('.weakseg .grid').dataset)"
    )
    right, down = {"xy": (2, 1), "zy": (0, 1), "zx": (2, 0)}[plane]
    um = [v * s - c for v, s, c in zip((z, y, x), voxel_size, centre, strict=True)]
    return left + width / 2 + um[right] * scale, top + height / 2 + um[down] * scale
