"""The page in a real browser: no word in its console, no request, on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.core.conftest import Finished
from tests.core.report.browser import Browser, browser, chromium

SCREENS = [(390, False), (390, True), (1280, False), (1280, True)]
# Contrast of letters to what is behind them, as WCAG 2 counts it; the least of all elements.
CONTRAST = """
(() => {
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const share = [.2126, .7152, .0722];
  const light = c => c.map(v => linear(v / 255)).reduce((sum, v, i) => sum + v * share[i], 0);
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  let least = [99, ""];
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || e.tagName === "STYLE") continue;
    const style = getComputedStyle(e);
    const front = parts(e.closest("svg") ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(front), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 80)];
  }
  return least;
})()
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed here: the page is not looked at in a browser")
    with browser(program) as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_the_page_opens_without_a_word_or_a_request_and_fits(
    width: int, dark: bool, window: Browser, chain_run: Finished
) -> None:
    file = chain_run.folder / "report.html"
    window.open(file, width=width, dark=dark)
    assert window.complaints() == []
    assert window.requests() == [file.as_uri()]
    assert window.value("document.documentElement.scrollWidth") <= width
    assert window.value("document.querySelectorAll('svg').length") > 6


@pytest.mark.parametrize("dark", [False, True])
def test_letters_can_be_read_on_what_is_behind_them(
    dark: bool, window: Browser, chain_run: Finished
) -> None:
    window.open(chain_run.folder / "report.html", width=390, dark=dark)
    ratio, where = window.value(CONTRAST)
    assert ratio >= 4.5, where  # WCAG 2.2, level AA


def test_light_and_dark_are_two_pictures(window: Browser, chain_run: Finished) -> None:
    colours = []
    for dark in (False, True):
        window.open(chain_run.folder / "report.html", width=390, dark=dark)
        colours.append(window.value("getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2


def test_a_browser_that_is_asked_for_more_tells_it(window: Browser, chain_run: Finished) -> None:
    # So that the silence above means something.
    bad = chain_run.folder / "bad.html"
    bad.write_text('<img src="http://example.invalid/a.png"><script>no_such_name()</script>')
    window.open(bad, width=390, dark=False)
    assert "http://example.invalid/a.png" in window.requests()
    assert window.complaints()
