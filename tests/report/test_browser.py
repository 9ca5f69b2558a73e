"""The page in headless Chromium: as wide as the screen and no wider, light and dark, with nothing fetched."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.report.test_page import SECTIONS
from tritter_jax.report import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

MEASURE = """
<script>
const shown = (name) => [...document.querySelectorAll(name)].filter((one) => one.getClientRects().length > 0);
const wide = document.documentElement.clientWidth;
document.body.dataset.facts = JSON.stringify({
  inner: window.innerWidth,
  scroll: document.documentElement.scrollWidth,
  resources: performance.getEntriesByType("resource").map((one) => one.name),
  background: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  sections: shown("section").map((one) => one.id),
  pictures: shown("svg").length,
  text: Math.min(...shown("svg text").map((one) => one.getBoundingClientRect().height)),
  // What lies in a box that scrolls by itself may be wider than the screen.
  outside: shown("main *").filter((one) => !one.parentElement.closest(".scroll"))
    .filter((one) => one.getBoundingClientRect().right > wide + 0.5).map((one) => one.outerHTML.slice(0, 80)),
});
</script>
"""
DARK, LIGHT = 0, 1


# Chromium makes no window narrower than 500 pixels; a frame may have any width, and goes by its host's colour scheme.
HOST = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">
<iframe style="border:0;width:{width}px;height:1000px" srcdoc="{page}"
 onload="document.body.dataset.facts = this.contentDocument.body.dataset.facts"></iframe>"""


def look(page: str, directory, width: int, scheme: int) -> dict:
    """Facts about a page as it is laid out; the page's own policy allows no script, so a copy goes without it."""
    measured, count = re.subn(r"<meta http-equiv=[^>]*>", "", page)
    assert count == 1
    measured = measured.replace("</body>", f"{MEASURE}</body>")
    file = directory / "page.html"
    file.write_text(HOST.format(width=width, page=html.escape(measured)), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", f"--user-data-dir={directory / 'profile'}",
            f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1400,1200", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    found = re.search(r' data-facts="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[-500:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def page(facts):
    return render(facts)


@pytest.mark.parametrize(("width", "scheme"), [(390, LIGHT), (390, DARK), (1280, LIGHT), (1280, DARK)])
def test_the_page_fits_its_screen(page, tmp_path, width, scheme):
    found = look(page, tmp_path, width, scheme)
    assert found["inner"] == width
    assert found["outside"] == []
    assert found["scroll"] == width
    assert found["resources"] == []
    assert found["sections"] == SECTIONS
    # Each picture is there twice, for both widths, and shown once.
    assert found["pictures"] == page.count("<svg") / 2 > 8
    assert found["text"] >= 10
    light = sum(map(int, re.findall(r"\d+", found["background"])[:3])) > 3 * 128
    assert light == (scheme == LIGHT)
    assert (sum(map(int, re.findall(r"\d+", found["ink"])[:3])) > 3 * 128) != light


def test_a_page_that_is_too_wide_is_noticed(page, tmp_path):
    wide = page.replace("<main>", '<main><p style="width:600px">wide</p>')
    found = look(wide, tmp_path, 390, LIGHT)
    assert found["scroll"] > 390
    assert len(found["outside"]) == 1
