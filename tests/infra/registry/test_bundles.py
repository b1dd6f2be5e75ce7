"""The cache of bundles on this machine: what was not used for long makes room."""

import os
import shutil
import time
from pathlib import Path

import pytest
from registries import make_bundle

from cnn.digest import hash_file
from cnn.inference.bundle import INFO
from infra.registry import bundles


def fetch(cache: Path, bundle: Path) -> Path:
    def bring(name: str, target: Path) -> None:
        shutil.copyfile(bundle / name, target / name)

    return bundles.cache_bundle(hash_file(bundle / INFO), cache, bring, "birds")


def test_the_cache_keeps_what_was_used_last_and_what_may_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "CACHED", 2)
    cache = tmp_path / "cache"
    made = [make_bundle(tmp_path / str(number), bytes([number])) for number in range(5)]
    first, second, third = (fetch(cache, bundle) for bundle in made[:3])
    assert len(list(cache.iterdir())) == 3  # all of them were fetched just now
    for age, folder in enumerate((third, second, first)):
        at = time.time() - (2 + age) * bundles.RECENT_SECONDS
        os.utime(folder, (at, at))
    assert fetch(cache, made[0]) == first  # used again
    fourth = fetch(cache, made[3])
    assert set(cache.iterdir()) == {first, fourth}
    killed = cache / ".part-1"
    killed.mkdir()
    os.utime(killed, (0, 0))
    fifth = fetch(cache, made[4])
    assert set(cache.iterdir()) == {first, fourth, fifth}
