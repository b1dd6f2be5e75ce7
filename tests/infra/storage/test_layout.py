"""Paths of a workspace: those of older releases stay where they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import layout
from infra.storage.entry import check_path

PLACES = {
    layout.dataset_pointer_path("/data/My Photos/"): "datasets/latest/my-photos-3932ce76cd0b.json",
    layout.manifest_path("owls-1a2b"): "datasets/owls-1a2b/manifest.json",
    layout.ledger_path("owls-1a2b"): "datasets/owls-1a2b/ledger.parquet",
    layout.outcomes_path("owls-1a2b"): "datasets/owls-1a2b/outcomes.csv",
    layout.refusal_path("/data/My Photos/"): "refused/my-photos-3932ce76cd0b/quarantine.csv",
    layout.chunk_report_path("c1"): "chunks/c1.arrow",
    layout.shard_path("ab12"): "shards/ab12.tfrecord",
    layout.derived_path("d1"): "derived/d1.json",
    layout.shard_sums_path("ab12"): "derived/ab12-sums.json",
    layout.bundle_path("cd34", "model.onnx"): "bundles/cd34/model.onnx",
    layout.batch_path("b1", "batch.json"): "batches/b1/batch.json",
    layout.score_part_path("b1", "c1"): "batches/b1/parts/c1.parquet",
    layout.batch_pointer_path("/inbox", "owls"): "batches/latest/cf45ee6f91bd9dcc.json",
}


@pytest.mark.parametrize(("found", "known"), PLACES.items())
def test_nothing_of_an_older_workspace_has_moved(found: str, known: str) -> None:
    assert found == known


@given(st.text(max_size=20))
def test_any_source_has_a_name_for_its_files(source: str) -> None:
    for path in (layout.dataset_pointer_path(source), layout.refusal_path(source)):
        assert check_path(path).isascii()
