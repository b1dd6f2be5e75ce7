"""A page of HTML as a browser would find it: elements, attributes, text; and what no page of ours may hold."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would find: elements, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def assert_harmless(page: Page, *files: str) -> None:
    """No script, no event handler, nothing referred to but pictures within, places on the page, and these files."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for value in page.values("src"))
    places = {f"#{value}" for value in page.values("id")}
    assert set(page.values("href")) <= places | set(files)
    assert all(re.fullmatch(r"#[a-z]+(-\d+)*", place) for place in places)
    assert not {"srcset", "action", "formaction", "poster", "xlink:href", "background"} & dict(page.attributes).keys()
    assert not [value for value in page.values("style") if "url" in value]
    # No script at all: not one of ours either, so there is no nonce or hash to be guessed.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert policy in page.values("content")
