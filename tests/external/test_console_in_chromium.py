"""The console in a real Chromium: chat, the scheduler's lanes, and no complaint of the browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import ServeProcess, serve_process
from webdriver import Browser

from llm_serving_engine.clients import Client

# Points at what is now in each lane until the tooltip says some words.
FIND_IN_LANES = """
const words = [...arguments];
const lanes = document.querySelector(".lanes");
const { left, top, width, height } = lanes.getBoundingClientRect();
for (let y = 3; y < height; y += 4) {
  for (let x = width - 3; x > width - 60; x -= 8) {
    lanes.dispatchEvent(new PointerEvent("pointermove", { clientX: left + x, clientY: top + y }));
    const tip = document.getElementById("tip");
    const said = tip.hidden ? '' : tip.textContent;
    if (said && words.every((word) => said.includes(word))) return said;
  }
}
return "";
"""
CURVE = "return document.querySelector(`.curve.${arguments[0]}`).ariaLabel.includes(arguments[1])"
SAY = """
document.getElementById("prompt").value = arguments[0];
document.getElementById("composer").requestSubmit();
"""
LAST = "[...document.querySelectorAll('.message.assistant')].at(-1)"


@pytest.fixture(scope="module")
def served() -> Iterator[ServeProcess]:
    """The built-in model, with one slot."""
    slots = {"LLM_SERVING_ENGINE_MODEL__RUNNER__SEQUENCES": "1"}
    with serve_process("--model", "builtin", env=slots, quiet=True) as server:
        yield server
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser that had nothing to complain of, when the test is done."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("NO CHROMIUM: the console is NOT tested; install chromium and its chromedriver")
    with Browser(Path(driver)) as browser:
        yield browser
        assert [entry["message"] for entry in browser.log()] == []


def test_chat_streams_and_is_kept(browser: Browser, served: ServeProcess) -> None:
    browser.open(served.http)
    # What holds where the field is empty.
    browser.until("return document.querySelector('[name=temperature]').placeholder === '0.8'")
    browser.run(SAY, "Count from one to twenty in words.")
    begun = browser.until(f"return {LAST}?.querySelector('.text').textContent")
    browser.until(f"return {LAST} && !document.querySelector('.streaming')")
    text = browser.run(f"return {LAST}.querySelector('.text').textContent")
    assert text.startswith(begun[:1])
    figures = browser.run(f"return {LAST}.querySelector('.figures').textContent")
    assert "tokens/s" in figures
    assert "first token" in figures
    browser.run(
        f"{LAST}.querySelector('.token').dispatchEvent("
        "new PointerEvent('pointermove', { bubbles: true, clientX: 300, clientY: 300 }))"
    )
    assert "%" in browser.run("return document.getElementById('tip').textContent")
    browser.open(served.http)
    assert browser.until(f"return {LAST}?.querySelector('.text').textContent") == text
    browser.run(f"{LAST}.querySelectorAll('button')[1].click()")
    browser.until(
        "return document.querySelector('.sentences')?.textContent.includes('It finished')"
    )


def test_stop_cancels(browser: Browser, served: ServeProcess) -> None:
    browser.open(served.http)
    with Client(served.address) as client:
        before = client.scheduler_state().outcomes.get("cancelled", 0)
        browser.run(SAY, "Tell me a very long story of the sea.")
        browser.until(f"return {LAST}?.querySelector('.text').textContent.length > 5")
        browser.run("document.getElementById('stop').click()")
        browser.until(f"return {LAST}.querySelector('.figures').textContent.includes('stopped')")
        for state in client.watch_scheduler_state(interval=0.1, timeout=60):
            if state.outcomes.get("cancelled", 0) > before:
                assert [slot.request_id for slot in state.slots] == [""]
                break
    assert browser.run("return document.getElementById('stop').hidden") is True


def test_the_lanes_show_a_preemption_as_it_happens(browser: Browser, served: ServeProcess) -> None:
    browser.open(f"{served.http}#scheduler")
    browser.until("return document.querySelector('.figure')")
    with Client(served.address) as client:
        options = {"ignore_eos": True, "max_tokens": 600}
        low = client.stream("Once", request_id="low-one", priority="low", **options)  # type: ignore[arg-type]
        low_output = iter(low)
        next(low_output)
        browser.until(FIND_IN_LANES, "low-one", "decode")
        high = client.stream("Once", request_id="high-one", priority="high", **options)  # type: ignore[arg-type]
        high_output = iter(high)
        next(high_output)
        browser.until(FIND_IN_LANES, "low-one", "preempted", "slot taken by high-one")
        browser.until(FIND_IN_LANES, "high-one", "decode")
        # The curves say so, too: the low one waits again.
        browser.until(CURVE, "queue", "high 0, normal 0, low 1")
        browser.until(CURVE, "rates", "tokens/s")
        browser.until(CURVE, "caches", " %")
        high.cancel()
        low.cancel()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("view", ["chat", "scheduler", "model"])
def test_every_view_fits_every_screen(
    browser: Browser, served: ServeProcess, view: str, scheme: str, width: int
) -> None:
    browser.prefer(scheme, width, 800)
    browser.open(f"{served.http}#{view}")
    browser.until("return document.getElementById(arguments[0]).checkVisibility()", f"view-{view}")
    wide = browser.run("return document.documentElement.scrollWidth")
    assert wide <= width
    assert browser.picture().startswith(b"\x89PNG")


def test_files_of_runs_are_compared(browser: Browser, served: ServeProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_serving_engine", "simulate"]
    trace, timeline = tmp_path / "trace.jsonl", tmp_path / "timeline.json"
    subprocess.run([*command, "--example", trace], check=True, capture_output=True)
    policies = ["--policy", "fair,first_come", "--timeline", str(timeline)]
    subprocess.run([*command, "--trace", trace, *policies], check=True, capture_output=True)
    browser.open(f"{served.http}#scheduler")
    browser.run(
        "const files = new DataTransfer();"
        "files.items.add(new File([arguments[0]], 'timeline.json'));"
        "const picker = document.getElementById('runs');"
        "picker.files = files.files; picker.dispatchEvent(new Event('change'));",
        timeline.read_text(),
    )
    browser.until("return document.querySelectorAll('.loaded .pane').length === 2")
    names = browser.run(
        "return [...document.querySelectorAll('.loaded h2')].map((h) => h.textContent)"
    )
    assert names == ["fair", "first_come"]
