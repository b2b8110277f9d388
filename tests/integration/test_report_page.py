"""The report's page in a real browser: no errors, tooltips by mouse and keyboard, phones, both themes, no network.

Chromium is driven through its debugging pipe, which needs nothing beside it. Where $SWEEP_SCREENSHOTS is set, the
screenshots are kept there; those of the published study, report_….png, are the ones in docs/pictures.
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sweep.report import write_report
from sweep.table import read_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PUBLISHED = Path(__file__).parents[2] / "results/published/resnet_rs_fig3/trials"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


class Browser:
    """A headless Chromium with one page; `events` holds everything that it told of its own accord."""

    def __init__(self, profile):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        child = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (commands, answers)]
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [CHROMIUM, *options], pass_fds=(3, 4), stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: (os.dup2(child[0], 3), os.dup2(child[1], 4)),
        )  # fmt: skip
        for fd in (commands, answers, *child):
            os.close(fd)
        self._numbers, self._buffer, self._session, self.events = itertools.count(1), b"", None, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        """One command, and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self, seconds=60):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], seconds)
            data = os.read(self._answers, 1 << 20) if ready else b""
            assert data, "Chromium does not answer"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path, width=1200, height=900, *, dark=False, scripts=True):
        """Load a file afresh, as a window of this size and theme would."""
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=theme)
        self("Emulation.setScriptExecutionDisabled", value=not scripts)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        until = time.monotonic() + 60
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, "the page does not load"
            self.events.append(self._next())

    def ask(self, expression):
        """The value of a JavaScript expression on the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def move_to(self, x, y):
        """Move the mouse, in px of the window."""
        self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key):
        """Press one key."""
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}.get(key, 0))

    def problems(self):
        """What the page complained of, and what it asked the network for."""
        self.ask("1")  # whatever was told before has arrived then
        found = []
        for event in self.events:
            method, details = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(json.dumps(details)[:300])
            if method == "Network.requestWillBeSent" and not details["request"]["url"].startswith("file:"):
                found.append(f"asks for {details['request']['url'][:200]}")
        return found

    def picture(self, name, selector=None):
        """Keep a screenshot of the whole page, or of one element with a margin, where they are wanted."""
        place = selector and self.ask(
            f"(() => {{const b = document.querySelector('{selector}').getBoundingClientRect();"
            "return {x: Math.max(b.x + scrollX - 8, 0), y: b.y + scrollY - 8, width: b.width + 16, "
            "height: b.height + 16, scale: 1}})()"
        )
        clip = {"clip": place} if place else {}
        data = self("Page.captureScreenshot", captureBeyondViewport=True, **clip)["data"]
        picture = base64.b64decode(data)
        if folder := os.environ.get("SWEEP_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.png").write_bytes(picture)
        return picture

    def close(self):
        """End Chromium and what it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def epochs_of(trial_id):
    top1 = 70 * (1 - np.exp(-np.arange(1, 11) / 3)) + len(trial_id) % 7
    return [SimpleNamespace(epoch=i + 1, minival_top1=float(v), train_top1=float(v) + 5) for i, v in enumerate(top1)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The published study, with hours, learning curves and a few failures added: a page with everything on it."""
    folder = tmp_path_factory.mktemp("report")
    table = read_table(PUBLISHED)
    d, w, r = table["depth"] / 101, table["width"], table["resolution"] / 224
    table = table.assign(
        macs_per_image=7.8e9 * d * w**2 * r**2, train_device_hours=0.1 * d * w * r**2 * table["epochs"]
    )
    table.loc[table.index[[5, 40]], ["status", "error"]] = ["oom", "out of memory on </script><b>x</b>"]
    write_report(table, None, folder, curves=epochs_of)
    return folder / "report.html"


def test_the_page_loads_without_an_error_and_asks_the_network_for_nothing(browser, report):
    browser.open(report)
    assert browser.problems() == []
    assert browser.ask("document.title") == "resnet_rs_fig3: scaling report"
    assert browser.ask("document.querySelectorAll('section').length") == 9
    assert browser.ask("document.querySelectorAll('td b').length") == 0  # the message is text
    browser.picture("desktop")


def test_the_pointer_on_a_mark_shows_its_words_and_leaving_hides_them(browser, report):
    browser.open(report)
    browser.ask("[...document.querySelectorAll('#fronts .plot')].at(-1).scrollIntoView({block: 'center'})")
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    place = browser.ask(
        "(() => {const b = [...document.querySelectorAll('#fronts .mark')].at(-1).getBoundingClientRect();"
        "return {x: b.x + b.width / 2, y: b.y + b.height / 2}})()"
    )
    assert browser.ask("document.querySelector('#tip').hidden")
    browser.move_to(place["x"] + 6, place["y"] + 4)  # near is enough
    assert not browser.ask("document.querySelector('#tip').hidden")
    words = browser.ask("document.querySelector('#tip').textContent")
    assert "training step" in words
    assert "top-1" in words
    assert "±" in words
    assert "on the front with p" in words
    browser.picture("tooltip")
    browser.move_to(5, 5)
    assert browser.ask("document.querySelector('#tip').hidden")


def test_the_keyboard_reaches_every_mark_and_shows_its_words(browser, report):
    browser.open(report)
    browser.ask("document.querySelector('#fronts .mark[tabindex=\"0\"]').focus()")
    first = browser.ask("document.querySelector('#tip').textContent")
    assert "training step" in first
    marks = browser.ask("document.querySelector('#fronts svg[role=group]').querySelectorAll('.mark').length")
    assert marks > 20
    browser.press("Home")
    seen = set()
    for _ in range(marks):
        assert not browser.ask("document.querySelector('#tip').hidden")
        seen.add(browser.ask("document.querySelector('#tip').textContent"))
        browser.press("ArrowRight")
    assert len(seen) == marks
    browser.press("Escape")
    assert browser.ask("document.querySelector('#tip').hidden")
    # One stop of the tab key for each plot, not one for each mark.
    assert browser.ask(
        "[...document.querySelectorAll('svg.plot')].every(p => p.querySelectorAll('.mark[tabindex=\"0\"]').length < 2)"
    )


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_window_is_never_scrolled_sideways(browser, report, width):
    browser.open(report, width, 844)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    if width == 390:
        browser.ask("document.querySelectorAll('details').forEach(d => d.open = false)")
        browser.picture("phone")
        assert (
            browser.ask(
                "Math.min(...[...document.querySelectorAll('main svg[role=group] text')].map("
                "t => t.getBoundingClientRect().height))"
            )
            >= 9
        )


def luminance(colour):
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_texts_and_marks_stand_out_in_both_themes(browser, report, dark):
    browser.open(report, dark=dark)
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.05) == dark
    texts = browser.ask(
        "[...new Set([...document.querySelectorAll('p,li,td,h2,a,summary,.plot text:not(.on)')].map(e => "
        "getComputedStyle(e)[e.namespaceURI.endsWith('svg') ? 'fill' : 'color']))]"
    )
    marks = browser.ask(
        "[...new Set([...document.querySelectorAll('.mark>.fill,.mark>.hollow,.line')].map("
        "e => getComputedStyle(e).color))]"
    )
    for colours, least in ((texts, 4.5), (marks, 2.2)):
        assert colours
        for colour in colours:
            high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, colour
    browser.picture("dark" if dark else "light")


def test_without_scripts_everything_can_be_read(browser, report):
    browser.open(report, scripts=False)
    browser("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.ask("document.querySelector('#fronts .mark title').textContent").count("\n") == 4
    assert browser.ask("document.querySelector('.card').innerText").startswith("10 epochs")


def test_labels_lie_within_their_plots_and_do_not_cover_each_other(browser, report):
    browser.open(report)
    outside = browser.ask(
        "[...document.querySelectorAll('main svg[role=group]')].flatMap(p => {const a = p.getBoundingClientRect();"
        "return [...p.querySelectorAll('text')].filter(t => {const b = t.getBoundingClientRect();"
        "return b.left < a.left - 1 || b.right > a.right + 1 || b.top < a.top - 1 || b.bottom > a.bottom + 1})"
        ".map(t => t.textContent)})"
    )
    assert outside == []
    covered = browser.ask(
        "[...document.querySelectorAll('main svg[role=group]')].flatMap(p => {"
        "const boxes = [...p.querySelectorAll('.lab')].map(t => [t.textContent, t.getBoundingClientRect()]);"
        "return boxes.flatMap(([n, a], i) => boxes.slice(i + 1).filter(([_, b]) => a.left < b.right - 2"
        " && b.left < a.right - 2"
        " && a.top < b.bottom - 4 && b.top < a.bottom - 4).map(([m]) => n + ' / ' + m))})"
    )
    assert covered == []


def test_the_figures_are_pictures_of_their_own(browser, report):
    drawn = sorted(report.parent.glob("*.svg"))
    assert {path.stem for path in drawn} >= {
        "front-10",
        "arms-1",
        "depth-width-gains",
        "error-flops",
        "resolution-returns",
    }
    for path in drawn:
        assert path.with_suffix(".png").exists()
        browser.open(path)
        assert browser.problems() == []
        assert browser.ask("document.documentElement.tagName") == "svg"
        assert browser.ask("document.querySelectorAll('parsererror').length") == 0


def test_a_hostile_table_does_nothing_on_the_page(browser, tmp_path):
    bad = "\"><img src=x onerror=document.title='hacked'><script>document.title='hacked'</script>&amp;$\\frac{\u202e"
    table = pd.DataFrame([
        {"sweep": bad, "trial_id": f"{bad}{i}", "family": f"{bad}{i % 2}", "model": f"{bad} {i}", "epochs": 3,
         "val_top1": 50.0 + i, "macs_per_image": 1e9 * (i + 1), "resolution": 32, "device": bad,
         "status": "ok" if i else bad, "error": bad}
        for i in range(6)
    ])  # fmt: skip
    write_report(table, None, tmp_path)
    browser.open(tmp_path / "report.html", 390)
    assert browser.problems() == []
    assert "hacked" not in browser.ask("document.title").split(":")[-1]
    assert browser.ask("document.querySelectorAll('img,iframe,object,main script').length") == 0
    assert browser.ask("document.documentElement.scrollWidth") <= 390


def test_the_pictures_of_the_published_study_are_small_enough_for_the_docs(browser, tmp_path):
    write_report(read_table(PUBLISHED), None, tmp_path)
    browser.open(tmp_path / "report.html", 1160)
    parts = {
        "verdicts": "#verdicts .cards",
        "gains": "#figure-depth-width-gains",
        "fronts": "#fronts",
        "arms": "#figure-arms-3",
        "returns": "#resolution",
    }
    sizes = {name: len(browser.picture(f"report_{name}", selector)) for name, selector in parts.items()}
    plot = "document.querySelector('#figure-front-350 .plot')"
    browser.ask(f"{plot}.scrollIntoView({{block: 'center'}})")
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    place = browser.ask(
        f"(() => {{const b = [...{plot}.querySelectorAll('.mark')].at(-7).getBoundingClientRect();"
        "return {x: b.x + b.width / 2, y: b.y + b.height / 2}})()"
    )
    browser.move_to(**place)
    sizes["tooltip"] = len(browser.picture("report_tooltip", "#figure-front-350"))
    browser.open(tmp_path / "report.html", 390, dark=True)
    sizes["phone"] = len(browser.picture("report_phone", "#figure-arms-3"))
    assert max(sizes.values()) < 300_000, sizes
    assert browser.problems() == []
