"""Every page is opened in Chromium, light, dark, narrow and for print: axe-core finds nothing, nothing is cut off."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devtools import LOOKS, Browser, Look, open_browser
from full_pages import write_full_scoring_report, write_full_suspects_page, write_full_training_report

PAGES: dict[str, Callable[[Path], Path]] = {
    "training": write_full_training_report,
    "suspects": write_full_suspects_page,
    "scoring": write_full_scoring_report,
}
SECTIONS = {  # what each page must have, so that no section goes without a look
    "training": {"weighed", "next", "learnt", "mistakes", "confusion", "suspects", "classes", "cameras", "groups"}
    | {"column-3"}
    | {"shortcuts", "curves", "reliability", "confidence", "pictures"},
    "suspects": {"suspects"},
    "scoring": {"truth", "effort", "unknown", "sheets", "quarantine", "ignored", "predictions"},
}
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module", params=list(PAGES))
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, PAGES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("look", LOOKS.values(), ids=list(LOOKS))
def test_a_page_is_readable_by_everyone_in_every_look(browser: Browser, page: tuple[str, Path], look: Look) -> None:
    kind, path = page
    browser.open(path, look)
    found = set(browser.evaluate("[...document.querySelectorAll('h2[id]')].map(each => each.id)"))
    assert found >= SECTIONS[kind]
    links = "[...document.querySelectorAll('a[href^=\"#\"]')].map(each => each.hash.slice(1))"
    assert browser.evaluate(f"{links}.filter(each => !document.getElementById(each))") == []
    assert browser.errors == []
    assert browser.find_wide() == []
    assert browser.find_violations() == []


def test_faults_are_found(browser: Browser, tmp_path: Path) -> None:
    """The check itself: faint text, also in a mixed colour, a picture without words, a wide table, a refused script."""
    path = tmp_path / "bad.html"
    path.write_text(
        """<!doctype html><html><head><title>Bad</title>
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
        <meta name="viewport" content="width=device-width"></head><body><main><h1>Bad</h1><img src="data:,">
        <p style="color: #aaa">faint</p>
        <p id="mixed" style="color: #888; background: color-mix(in srgb, #000 40%, #fff)">faint</p>
        <table style="width: 900px"><tr><th>wide</th><td>cell</td></tr></table></main>
        <script>1</script></body></html>""",
        "utf-8",
    )
    browser.open(path, LOOKS["phone"])
    assert any("Content Security Policy" in text for text in browser.errors)
    assert any("TABLE" in text for text in browser.find_wide())
    text = "\n".join(browser.find_violations())
    assert all(rule in text for rule in ("color-contrast", "image-alt", "html-has-lang"))
    assert "#mixed" in text
