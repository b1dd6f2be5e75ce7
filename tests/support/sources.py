"""Sources whose listing is made up."""

from collections.abc import Callable, Iterator

from infra.storage.store import Entry


class Fake:
    """A source whose listing is made up."""

    is_local, uri = False, "s3://fake"

    def __init__(self, make: Callable[[], Iterator[Entry]]) -> None:
        self.make = make

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.make()

    def read(self, path: str) -> bytes:
        raise NotImplementedError

    def uri_of(self, path: str) -> str:
        return path


def entries_of(paths: list[str]) -> list[Entry]:
    return [Entry(path, number, f"{number}.0") for number, path in enumerate(paths)]
