"""What Prefect's page of a run shows: names and tables that hold whatever people call their models and folders."""

import re
from dataclasses import asdict
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.context import FlowRunContext

import flows.run_page
from cnn.errors import RegistryError
from cnn.evaluation.weighed import Weighed
from flows.results import GateResult, PrepareResult, ScoreResult, ShardCounts, TrainResult
from flows.run_page import (
    MOST_WEIGHED,
    complete_run,
    describe_batch_outcome,
    describe_dataset_outcome,
    describe_version_outcome,
    describe_weighed,
    link_batch,
    link_dataset,
    link_version,
    name_run_by,
)

PREPARED = PrepareResult(
    dataset="my-photos-0123456789ab",
    manifest="/work/data sets/`x`|y/manifest.json",
    digest="d" * 64,
    files=1200,
    outcomes={"ok": 1199, "leak": 1, "ignored": 0},
    splits={"train": 1000, "test": 199},
    classes=["a", "b"],
    shards=ShardCounts(built=1, reused=0),
    seconds=1.0,
    images_per_second=1.0,
)
TRAINED = TrainResult(
    model="Birds_of.2026",
    version=4,
    trained=True,
    alias="champion",
    run_id="abc",
    dataset="photos-1",
    metrics={"accuracy": 0.91234, "macro_f1": 0.9},
    gate=GateResult(verdict="promote", reasons=["better than '1' | <b>2</b>"]),
    seconds=1.0,
)
SCORED = ScoreResult(
    batch="b1",
    predictions="s3://bucket/batches/b1/predictions.parquet",
    report="s3://bucket/batches/b1/report.html",
    model="birds",
    version=4,
    files=20,
    outcomes={"ok": 20},
    scored=15,
    reused=5,
    seconds=1.0,
    images_per_second=1.0,
)


class Page(dict[str, Any]):
    """The artifact that was written."""

    def create(self, **facts: Any) -> None:
        self.update(facts)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setattr(flows.run_page, "create_markdown_artifact", page.create)
    monkeypatch.setattr(FlowRunContext, "get", classmethod(lambda cls: cls.model_construct(parameters={})))
    return page


def test_a_dataset_is_a_table_and_the_path_of_its_manifest(page: Page) -> None:
    link_dataset(PREPARED)
    assert page["key"] == "dataset-my-photos"
    assert "| files | 1,199 ok, 1 leak |" in page["markdown"]
    assert page["markdown"].endswith("manifest\n\n```\n/work/data sets/`x`|y/manifest.json\n```")


def test_a_version_is_its_figures_and_where_they_are_drawn(page: Page) -> None:
    link_version(TRAINED, lambda run: f"http://mlflow:5000/#/experiments/1/runs/{run}/artifacts?workflowType=x")
    assert page["key"] == "model-birds-of-2026"
    assert page["description"] == r"Birds\_of.2026 version 4 (champion)"
    assert "| gate | promote |" in page["markdown"]
    assert "\n\n" + r"- better than '1' \| \<b\>2\</b\>" + "\n\n" in page["markdown"]
    assert r"| accuracy | 0.9123 |" in page["markdown"]
    assert r"| macro\_f1 | 0.9 |" in page["markdown"]
    page_of_run = "http://mlflow:5000/#/experiments/1/runs/abc/artifacts"
    assert f"[figures]({page_of_run}?workflowType=x)" in page["markdown"]
    assert f"[report]({page_of_run}/report.html?workflowType=x)" in page["markdown"]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in page["markdown"].splitlines() if line[:1] == "|")


def test_a_version_in_a_local_registry_names_the_file_of_its_report(page: Page) -> None:
    link_version(TRAINED.model_copy(update={"report": "file:///w/runs/1/report.html"}), lambda run: "/w/mlflow/figures")
    assert "report\n\n```\n/w/runs/1/report.html\n```" in page["markdown"]


def test_a_version_whose_run_was_removed_in_mlflow_is_shown_without_figures(page: Page) -> None:
    def fail(run: str) -> str:
        raise RegistryError("no such run")

    link_version(TRAINED, fail)
    assert "figures" not in page["markdown"]
    assert "| dataset | photos-1 |" in page["markdown"]


def test_a_batch_names_its_report(page: Page) -> None:
    link_batch(SCORED)
    assert page["key"] == "score-birds"
    assert "report\n\n```\ns3://bucket/batches/b1/report.html\n```" in page["markdown"]


@pytest.mark.parametrize("fault", [OSError("gone"), RuntimeError("Failed to reach API")])
def test_a_server_that_refuses_a_page_spoils_no_run(
    page: Page, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def refuse(**facts: Any) -> None:
        raise fault

    monkeypatch.setattr(flows.run_page, "create_markdown_artifact", refuse)
    link_batch(SCORED)
    assert not page


def test_nothing_is_written_outside_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.run_page, "create_markdown_artifact", pytest.fail)
    link_batch(SCORED)


def test_a_run_says_what_it_came_to() -> None:
    gate = GateResult(verdict="hold", reasons=["a", "b"])
    held = TRAINED.model_copy(update={"alias": "", "judged_on": "test split of photos-1", "gate": gate})
    said = "Birds_of.2026 version 4 (no alias), accuracy 0.9123 on the test split of photos-1; hold: a"
    assert describe_version_outcome(held) == said
    same = TRAINED.model_copy(update={"trained": False})
    assert describe_version_outcome(same) == "nothing has changed since Birds_of.2026 version 4 (champion)"
    assert describe_dataset_outcome(PREPARED) == "dataset my-photos-0123456789ab: 1,199 ok, 1 leak"
    assert describe_batch_outcome(SCORED) == "batch b1 by birds version 4: 20 ok"


def test_everything_that_the_gate_weighed_is_a_line_with_its_numbers() -> None:
    size = asdict(Weighed("size", 3.0, None, None, True, "the network has 3 MB"))
    owl = asdict(Weighed("class owl", 0.7, 1.0, 0.0319, False, "9 lost, 0 won", 30, 0.00195))
    digest = asdict(Weighed("dataset", "a" * 64, None, "a" * 64, True, "the same"))
    assert describe_weighed([size, owl, digest] + [size] * 50)[:3] == [
        "class owl: 0.7, champion 1, threshold 0.0319, 30 images, p 0.00195: 9 lost, 0 won",
        "size: 3: the network has 3 MB",
        "dataset: aaaaaaaaaaaa, threshold aaaaaaaaaaaa: the same",
    ]
    assert len(describe_weighed([size] * MOST_WEIGHED)) == MOST_WEIGHED
    assert describe_weighed([size] * (MOST_WEIGHED + 7))[MOST_WEIGHED:] == ["and 7 more, which are in the report"]


@pytest.mark.integration
def test_the_last_state_of_a_run_has_the_outcome_as_message_and_its_caller_the_answer(prefect_api: str) -> None:
    seen: list[str] = []

    def note(flow: Any, flow_run: Any, state: Any) -> None:
        seen.append(state.message)

    @flow(name="outcome", persist_result=False, on_completion=[note])
    def work() -> dict[str, Any]:
        return complete_run({"answer": 42}, "all is well\n")

    assert work() == {"answer": 42}
    assert seen == ["all is well\\n"]
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["outcome"])))
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", "all is well\\n")
    assert work.fn() == {"answer": 42}


@pytest.mark.parametrize(
    ("parameter", "value", "name"),
    [
        ("name", "birds", "retrain birds"),
        ("source", "/home/ada/my photos/", "retrain my photos"),
        ("source", "s3://bucket/photos", "retrain photos"),
        ("source", "/", "retrain /"),
        ("name", "{x}\n" + "y" * 200, "retrain {x}\\n" + "y" * 87),
        ("other", "birds", "retrain "),
    ],
)
def test_a_run_is_named_after_what_it_does(
    monkeypatch: pytest.MonkeyPatch, parameter: str, value: str, name: str
) -> None:
    known = {"name": "", "source": "", parameter: value}
    monkeypatch.setattr(FlowRunContext, "get", classmethod(lambda cls: cls.model_construct(parameters=known)))
    asked = parameter if parameter != "other" else "missing"
    assert name_run_by("retrain", asked)() == name


def test_every_flow_has_a_name_for_its_runs() -> None:
    from flows.prepare import prepare
    from flows.retrain import retrain
    from flows.score import score
    from flows.train import train

    assert all(callable(one.flow_run_name) for one in (prepare, retrain, score, train))
    assert not callable(flow(name="x")(lambda: None).flow_run_name)
