"""A real Firefox for the tests of pages; a test file uses it with `pytest_plugins = ["firefox"]`.

Playwright's client needs commands that Debian's Firefox does not have. Every Firefox speaks
WebDriver BiDi, https://www.w3.org/TR/webdriver-bidi/, and a few of its commands are enough here.
PYTEST_DONT_REWRITE: see app_fixtures.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import installed, pixels
from websockets.sync.client import ClientConnection, connect

LIMIT_S = 300  # a busy machine; what is there is seen at once
COMMANDS = ("firefox-esr", "firefox")
DOWN = "\ue015"  # the arrow, by https://www.w3.org/TR/webdriver2/#keyboard-actions
OUTSIDE = "move target out of bounds"  # the error of a place outside the window
STILL = """async (element) => {
    element.scrollIntoView({ block: 'center', behavior: 'instant' });
    const { top } = element.getBoundingClientRect();
    await new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)));
    return element.getBoundingClientRect().top === top;
}"""
PREFERENCES = {
    "intl.accept_languages": "en",
    "network.proxy.type": 0,  # none, whatever the environment says
    "ui.prefersReducedMotion": 1,  # no smooth scrolling to wait for
}


class BidiError(Exception):
    """Firefox could not do what a command says."""


def until(condition: Callable[[], Any], meaning: str) -> Any:
    """What the condition gives, once that is true."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {LIMIT_S} s: {meaning}"
        time.sleep(0.05)
    return found


class Firefox:
    """A connection to a running Firefox. `events`: what it has reported, method and parameters."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._count = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(LIMIT_S))
            if message["type"] == "event":
                self.events.append((message["method"], message["params"]))
            elif message["id"] == self._count:
                if message["type"] == "error":
                    raise BidiError(f"{method}: {message['error']}: {message['message']}")
                return dict(message["result"])


class Tab:
    """A page in a Firefox. Elements are named by selectors; the first one counts."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self.firefox = firefox
        self._context = context

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.firefox.send(method, context=self._context, **params)

    def goto(self, address: str) -> None:
        self._send("browsingContext.navigate", url=address, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as JSON carries it."""
        answer = self._run(f"(async () => JSON.stringify((await ({expression})) ?? null))()")
        return json.loads(answer["value"])

    def _run(self, expression: str) -> Any:
        """The value of an expression, as BiDi describes it."""
        answer = self.firefox.send(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", f"{expression}: {answer['exceptionDetails']['text']}"
        return answer["result"]

    def wait(self, condition: str) -> Any:
        """The value of an expression, once that is true; another page may come before it is."""

        def value() -> Any:
            with suppress(BidiError):  # the page has gone and the next one is not there yet
                return self.evaluate(condition)

        return until(value, condition)

    def count(self, selector: str, number: int) -> None:
        """Wait until there are so many of these elements in sight."""
        each = f"[...document.querySelectorAll({json.dumps(selector)})]"
        self.wait(f"{each}.filter((each) => each.checkVisibility()).length === {number}")

    def text(self, selector: str) -> str:
        """An element's text, once it is there."""
        return str(self.wait(f"document.querySelector({json.dumps(selector)})?.textContent"))

    def _element(self, selector: str) -> dict[str, str]:
        """An element in the middle of the window, where it stays, for other commands."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{found}?.checkVisibility() && ({STILL})({found})")
        return {"sharedId": self._run(found)["sharedId"]}

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element, once it is there, until that is clicked.

        A page that grows may carry it off between two commands.
        """
        found = f"document.querySelector({json.dumps(selector)})"

        def clicked() -> bool:
            place = {"type": "element", "element": self._element(selector)}
            self.evaluate(f"{found}.addEventListener('click', () => {{ window.isHit = true; }})")
            actions = [
                {"type": "pointerMove", "x": 0, "y": 0, "origin": place},
                {"type": "pointerDown", "button": 0},
                {"type": "pointerUp", "button": 0},
            ]
            source = {"type": "pointer", "id": "mouse", "actions": actions}
            self.evaluate("window.isHit = false")
            try:
                self._send("input.performActions", actions=[source])
            except BidiError as error:
                if OUTSIDE in str(error):
                    return False
                raise
            try:
                return bool(self.evaluate("window.isHit ?? true"))  # a new page knows nothing of it
            except BidiError:  # the page has gone and the next one is not there yet
                return True

        until(clicked, f"a click on {selector}")

    def press(self, selector: str, key: str) -> None:
        """Press a key on an element, once it is there."""
        self._element(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keys", "actions": actions}
        self._send("input.performActions", actions=[source])

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file field."""
        self._send("input.setFiles", element=self._element(selector), files=[str(file)])

    def paintings(self, selector: str) -> list[np.ndarray]:
        """What these canvases show: (height, width, 3) each."""
        each = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return [pixels(uri) for uri in self.evaluate(f"{each}.map((each) => each.toDataURL())")]


@contextmanager
def started(command: str, profile: Path) -> Iterator[str]:
    """A Firefox without windows, with an empty profile: the address at which it takes commands."""
    lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in PREFERENCES.items())
    (profile / "user.js").write_text("".join(lines))
    log = profile / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command, "--headless", "--remote-debugging-port=0", "--profile", profile],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def address() -> str | None:
        said = log.read_text(errors="replace")
        assert process.poll() is None, f"Firefox ended: {said}"
        found = re.search(r"BiDi listening on (ws://\S+)\n", said)
        return found and found[1]

    try:
        yield until(address, "Firefox listens")
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # nothing of the profile is worth keeping
        process.wait()


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    """The system's Firefox."""
    command = installed("Firefox", COMMANDS)
    with started(command, tmp_path_factory.mktemp("firefox")) as address:
        options: dict[str, Any] = {"proxy": None, "max_size": None, "open_timeout": LIMIT_S}
        with connect(f"{address}/session", **options) as socket:
            yield Firefox(socket)


@pytest.fixture
def tab(firefox: Firefox, server: str) -> Iterator[Tab]:
    """A tab with cookies and storage of its own.

    Afterwards it may have left no error in the console, nor asked any other host for anything.
    """
    firefox.events.clear()
    user = firefox.send("browser.createUserContext")
    opened = firefox.send("browsingContext.create", type="tab", **user)
    size = {"width": 1280, "height": 900}
    firefox.send("browsingContext.setViewport", viewport=size, **opened)
    yield Tab(firefox, opened["context"])
    firefox.send("browser.removeUserContext", **user)
    told = [entry for method, entry in firefox.events if method == "log.entryAdded"]
    errors = [entry["text"] for entry in told if entry["level"] == "error"]
    assert not errors, f"errors in the console: {errors}"
    asked = [each["request"]["url"] for _, each in firefox.events if "request" in each]
    foreign = [url for url in asked if not url.startswith((server + "/", "data:", "blob:"))]
    assert not foreign, f"asked other hosts: {foreign}"
    assert asked
