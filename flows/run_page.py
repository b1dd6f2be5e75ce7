"""Prefect's page of a flow run: a name that says what the run does, what it came to, and links to its results."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.states import Completed

from cnn.errors import SafelightError
from cnn.text import escape_unprintable
from flows.progress import ask_prefect
from flows.results import PrepareResult, ScoreResult, TrainResult
from infra.registry.registry import REPORT

NAME_LENGTH = 100
MOST_WEIGHED = 400  # lines of what the gate weighed
_MEANT_BY_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$])")  # in a cell of a table; marks that begin a line are left out


def name_run_by(verb: str, parameter: str) -> Callable[[], str]:
    """For `@flow(flow_run_name=...)`: the verb, and the last part of what a parameter of the flow names."""

    def name() -> str:
        context = FlowRunContext.get()
        value = str(((context and context.parameters) or {}).get(parameter, ""))
        return f"{verb} {escape_unprintable(value.rstrip('/').rpartition('/')[2] or value)}"[:NAME_LENGTH]

    return name


def complete_run(answer: dict[str, Any], outcome: str) -> dict[str, Any]:
    """What a flow returns: the answer, and within a run the message of its last state, which Prefect's pages show and
    its notifications quote. Whoever calls the flow gets the answer alone."""
    if FlowRunContext.get() is None:
        return answer
    return cast(dict[str, Any], Completed(data=answer, message=escape_unprintable(outcome)))


def is_deployed_run() -> bool:
    """Whether this run is one of a deployment: nobody waits at a terminal for its answer."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def describe_dataset_outcome(result: PrepareResult) -> str:
    """One line of what a preparation came to."""
    counts = ", ".join(f"{count:,} {name}" for name, count in result.outcomes.items() if count)
    return f"dataset {result.dataset}: {counts}"


def describe_version_outcome(result: TrainResult) -> str:
    """One line of what a training came to: the version, its accuracy, and the gate's verdict with its first reason."""
    if not result.trained:
        return f"nothing has changed since {result.model} version {result.version} ({result.alias or 'no alias'})"
    accuracy = f", accuracy {result.metrics['accuracy']:.4f}" if "accuracy" in result.metrics else ""
    where = f" on the {result.judged_on}" if accuracy and result.judged_on else ""
    verdict = ": ".join(filter(None, (result.gate.verdict, *result.gate.reasons[:1])))
    return f"{result.model} version {result.version} ({result.alias or 'no alias'}){accuracy}{where}; {verdict}"


def describe_batch_outcome(result: ScoreResult) -> str:
    """One line of what a scoring came to."""
    counts = ", ".join(f"{count:,} {name}" for name, count in result.outcomes.items() if count)
    return f"batch {result.batch} by {result.model} version {result.version}: {counts}"


def link_dataset(result: PrepareResult) -> None:
    """A dataset version, on the page of the run that prepared it."""
    rows = {
        "dataset": _write(result.dataset),
        "files": _count(result.outcomes),
        "images": _count(result.splits),
        "classes": f"{len(result.classes):,}",
    }
    links = {"manifest": result.manifest}
    _publish(f"dataset-{result.dataset.rpartition('-')[0]}", f"Dataset version {result.dataset}", rows, links)


def link_version(result: TrainResult, find_figures: Callable[[str], str]) -> None:
    """A model version on the page of the run that trained it; `find_figures` is asked by the run's id in MLflow."""
    alias = f" ({result.alias})" if result.alias else ""
    figures = {_write(name): f"{value:.4g}" for name, value in result.metrics.items()}
    rows = {
        "model": _write(f"{result.model} version {result.version}{alias}"),
        "gate": _write(result.gate.verdict),
        **figures,
        "measured on": _write(result.judged_on),
        "dataset": _write(result.dataset),
        "MLflow run": _write(result.run_id),
    }
    links = {"report": result.report} if result.report else {}
    with suppress(SafelightError):  # someone removed the run in MLflow
        links["figures"] = find_figures(result.run_id)
        if links["figures"].startswith(("http://", "https://")):
            page, mark, query = links["figures"].partition("?")
            links["report"] = f"{page}/{REPORT}{mark}{query}"
    points = (*result.gate.reasons, *describe_weighed(result.gate.weighed))
    _publish(f"model-{result.model}", f"{result.model} version {result.version}{alias}", rows, links, points)


def describe_weighed(weighed: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line of each thing that the gate weighed, with its numbers: what is broken, then as many as a page holds, and
    how many more there are."""
    lines, left = [], len(weighed) - MOST_WEIGHED
    for each in sorted(weighed, key=lambda each: bool(each["kept"]))[:MOST_WEIGHED]:
        facts = [_write_fact(each["value"])] if each["value"] is not None else []
        facts += [f"champion {_write_fact(each['champion'])}"] if each["champion"] is not None else []
        facts += [f"threshold {_write_fact(each['threshold'])}"] if each["threshold"] is not None else []
        facts += [f"{each['images']:,} images"] if each["images"] is not None else []
        facts += [f"p {each['p']:.3g}"] if each["p"] is not None else []
        lines.append(f"{each['name']}: {', '.join(facts)}: {each['line']}")
    return lines if left <= 0 else [*lines, f"and {left:,} more, which are in the report"]


def _write_fact(value: float | str) -> str:
    return value[:12] if isinstance(value, str) else f"{value:.4g}"


def link_batch(result: ScoreResult) -> None:
    """A scored batch, on the page of the run that scored it."""
    rows = {
        "model": _write(f"{result.model} version {result.version}"),
        "scored": f"{result.scored:,}",
        "reused": f"{result.reused:,}",
        "files": _count(result.outcomes),
    }
    links = {"report": result.report, "predictions": result.predictions}
    _publish(f"score-{result.model}", f"Scores by {result.model} version {result.version}", rows, links)


def _publish(
    kind: str, title: str, rows: Mapping[str, str], links: Mapping[str, str], points: Sequence[str] = ()
) -> None:
    """Write a table, and points and links below it. Results of one kind share a key: Prefect lists them one after
    another."""
    if FlowRunContext.get() is None:
        return
    table = "\n".join(["| | |", "|---|---|", *(f"| {first} | {cell} |" for first, cell in rows.items())])
    listed = ["\n".join(f"- {_write(point)}" for point in points)] if points else []
    text = "\n\n".join([table, *listed, *(_link(name, address) for name, address in links.items())])
    key = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    ask_prefect(lambda: create_markdown_artifact(markdown=text, key=key, description=_write(title)))


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
