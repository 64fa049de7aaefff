"""The report in a real browser: it loads without errors or requests, and people can use it."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.reporting.report import report
from pretrain.viewing_commands import ReportCommand
from tests.conftest import SmallCorpus
from tests.e2e.commands import COMMAND, ENVIRONMENT
from tests.run_folders import made_up_run, write_lines

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs the program chromium (apt-get install chromium)"
)
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as programs:
        running = programs.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs, one of which is called like an attack."""
    folder = tmp_path_factory.mktemp("report")
    runs = (made_up_run(folder / "first", learning_rate=1e-3), made_up_run(folder / HOSTILE))
    write_lines(runs[1] / "samples.jsonl", [{"prompt": HOSTILE, "text": HOSTILE}])
    report(ReportCommand(runs=runs, output=folder / "report.html"))
    return folder / "report.html"


class Opened:
    """A page and what went wrong in it."""

    def __init__(self, browser: Any, file: Path, **options: Any):
        self.page = browser.new_context(**options).new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready=true]")

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def range(self, number: int = 0) -> list[float]:
        box = f"document.querySelectorAll('[data-chart]')[{number}]"
        found: list[float] = self.page.evaluate(f"{box}._fullLayout.xaxis.range")
        return found


def test_it_loads_without_errors_or_requests(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]
    assert opened.page.locator(".js-plotly-plot").count() >= 6
    assert opened.page.title() != "owned"
    assert opened.page.locator("main img").count() == 0


def test_curves_respond(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)
    page, plot = opened.page, opened.page.locator(".nsewdrag").first
    before = opened.range()
    plot.scroll_into_view_if_needed()
    place = plot.bounding_box()
    x, y = place["x"], place["y"] + place["height"] / 2
    page.mouse.move(x + place["width"] / 2, y)
    page.wait_for_selector(".hovertext, .axistext", state="attached")
    page.mouse.move(x + place["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(x + place["width"] * 0.6, y, steps=5)
    page.mouse.up()
    # the page's policy forbids what waits for functions are made of
    _wait_for(lambda: opened.range()[0] > 5)
    after = opened.range()
    assert after[1] - after[0] < 0.5 * (before[1] - before[0])
    page.select_option("#axis", "tokens")
    last = "document.querySelector('[data-chart]').data[0].x.at(-1)"
    assert page.evaluate(last) == 6000
    page.check("#log")
    assert page.evaluate("document.querySelector('[data-chart]')._fullLayout.yaxis.type") == "log"
    page.fill("#smooth", "0.9")
    y0 = page.evaluate("document.querySelector('[data-chart]').data[0].y.at(5)")
    # 2 + 4 / 6 without smoothing
    assert y0 > 3.0
    assert opened.errors == []


def test_keyboard_and_names(browser: Any, file: Path) -> None:
    opened = Opened(browser, file)
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator("[data-chart]").first
    box.focus()
    before = opened.range()
    page.keyboard.press("+")
    zoomed = opened.range()
    assert zoomed[1] - zoomed[0] == pytest.approx((before[1] - before[0]) / 2)
    page.keyboard.press("ArrowRight")
    assert opened.range()[0] > zoomed[0]
    page.keyboard.press("0")
    assert opened.range() == pytest.approx(before)
    # names for screen readers, and an outline of headings
    assert box.get_attribute("aria-label") == "Loss, nats per token: chart of 4 series"
    nameless = "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length"
    assert page.evaluate(f"{nameless} && !e.ariaLabel).length") == 0
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("table caption").count() == page.locator("table").count()


def test_narrow_and_dark(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    colors = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    text, back = map(_luminance, colors)
    # light on dark, at the contrast of WCAG AAA
    assert (text + 0.05) / (back + 0.05) > 7
    color = "document.querySelector('[data-chart]')._fullLayout.font.color"
    assert page.evaluate(color) == "#e6eaf2"
    page.emulate_media(color_scheme="light")
    _wait_for(lambda: page.evaluate(color) == "#1c2330")
    assert opened.errors == []


def test_it_prints(browser: Any, file: Path, tmp_path: Path) -> None:
    pdf = Opened(browser, file).page.pdf(path=tmp_path / "report.pdf")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 2 or b"/Count" in pdf
    assert len(pdf) > 20_000


def test_an_open_page_follows_a_run_that_stops_and_resumes(
    browser: Any, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = small_corpus.run_file(tmp_path / "run.toml", steps=4000, workers=0, validate_every=0)
    run, page_file = tmp_path / "run", tmp_path / "page.html"
    command = [*COMMAND, "pretrain", str(run_file), "--auto-resume", "--checkpoint.every", "0"]
    command += ["--health.heartbeat-s", "0.2"]
    train = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    watched = ReportCommand(runs=(tmp_path,), output=page_file, watch=True, interval_s=2.0)
    watcher = threading.Thread(target=report, args=(watched,), daemon=True)
    try:
        _wait_for(lambda: _steps(run) > 3)
        watcher.start()
        _wait_for(page_file.exists)
        opened = Opened(browser, page_file)
        opened.page.wait_for_selector("#live")
        first = _shown(opened)
        _wait_for(lambda: _shown(opened) > first)
        train.send_signal(signal.SIGTERM)
        train.wait(60)
        stopped = _steps(run)
        _wait_for(lambda: _shown(opened) == stopped)
        # a few more steps, and the end
        text = run_file.read_text().replace("steps = 4000", f"steps = {stopped + 5}")
        run_file.write_text(text)
        train = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        _wait_for(lambda: _shown(opened) == stopped + 5)
        watcher.join(30)
        assert not watcher.is_alive()
        assert "interrupt" in page_file.read_text()
        opened.page.reload()
        assert opened.page.locator("#live").count() == 0
        assert opened.errors == []
    finally:
        train.kill()
        train.wait()


def _luminance(color: str) -> float:
    """Relative luminance of a colour, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _shown(opened: Opened) -> int:
    """The last step of the curve on the page, whenever it is loaded."""
    try:
        box = "document.querySelector('[data-chart]')"
        return int(opened.page.evaluate(f"{box}?.data?.[0].x.at(-1) ?? 0"))
    except playwright.Error:
        # it was loading itself again
        return 0


def _wait_for(condition: Any, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
