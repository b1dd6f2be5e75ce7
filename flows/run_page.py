"""What Prefect's page of a flow run shows: a name that says what the run does, and links to its results."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from cnn.errors import SafelightError
from cnn.text import escape_unprintable
from flows.results import PrepareResult, ScoreResult, TrainResult

NAME_LENGTH = 100
_MEANT_BY_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")  # in a cell of a table; marks that begin a line are left out


def name_run_by(verb: str, parameter: str) -> Callable[[], str]:
    """For `@flow(flow_run_name=...)`: the verb, and the last part of what a parameter of the flow names."""

    def name() -> str:
        context = FlowRunContext.get()
        value = str(((context and context.parameters) or {}).get(parameter, ""))
        return f"{verb} {escape_unprintable(value.rstrip('/').rpartition('/')[2] or value)}"[:NAME_LENGTH]

    return name


def link_dataset(report: PrepareResult) -> None:
    """A dataset version, on the page of the run that prepared it."""
    rows = {
        "dataset": _write(report.dataset),
        "files": _count(report.outcomes),
        "images": _count(report.splits),
        "classes": f"{len(report.classes):,}",
    }
    links = {"manifest": report.manifest}
    _publish(f"dataset-{report.dataset.rpartition('-')[0]}", f"Dataset version {report.dataset}", rows, links)


def link_version(report: TrainResult, find_figures: Callable[[str], str]) -> None:
    """A model version on the page of the run that trained it; `find_figures` is asked by the run's id in MLflow."""
    alias = f" ({report.alias})" if report.alias else ""
    rows = {
        "model": _write(f"{report.model} version {report.version}{alias}"),
        "gate": _write("; ".join([report.gate.verdict, *report.gate.reasons])),
        "dataset": _write(report.dataset),
        "MLflow run": _write(report.run_id),
    }
    rows |= {_write(name): f"{value:.4g}" for name, value in report.metrics.items()}
    links = {}
    with suppress(SafelightError):  # someone removed the run in MLflow
        links["figures"] = find_figures(report.run_id)
    _publish(f"model-{report.model}", f"{report.model} version {report.version}{alias}", rows, links)


def link_batch(report: ScoreResult) -> None:
    """A scored batch, on the page of the run that scored it."""
    rows = {
        "model": _write(f"{report.model} version {report.version}"),
        "scored": f"{report.scored:,}",
        "reused": f"{report.reused:,}",
        "files": _count(report.outcomes),
    }
    links = {"report": report.report, "predictions": report.predictions}
    _publish(f"score-{report.model}", f"Scores by {report.model} version {report.version}", rows, links)


def _publish(kind: str, title: str, rows: Mapping[str, str], links: Mapping[str, str]) -> None:
    """Write a table and links below it. Results of one kind share a key: Prefect lists them one after another.

    A page is no result: when the server refuses it, the run goes on.
    """
    if FlowRunContext.get() is None:
        return
    table = "\n".join(["| | |", "|---|---|", *(f"| {first} | {cell} |" for first, cell in rows.items())])
    text = "\n\n".join([table, *(_link(name, address) for name, address in links.items())])
    key = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    try:
        create_markdown_artifact(markdown=text, key=key, description=_write(title))
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError):
        return


def _link(name: str, address: str) -> str:
    """The address as text that can be copied, and as a link when it is a page: Prefect's pages drop links to files."""
    shown = escape_unprintable(address.removeprefix("file://"))
    head = f"[{name}]({quote(address, safe=':/%#?=&')})" if address.startswith(("http://", "https://")) else name
    return f"{head}\n\n```\n{shown}\n```"


def _write(text: str) -> str:
    """The text with nothing in it that Markdown would take for its own."""
    return _MEANT_BY_MARKDOWN.sub(r"\\\1", escape_unprintable(text))


def _count(counts: Mapping[str, int]) -> str:
    return _write(", ".join(f"{count:,} {name}" for name, count in counts.items() if count)) or "0"
