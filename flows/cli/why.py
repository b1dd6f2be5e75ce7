"""The commands `why` and `reproduce`: what is known of an image, and whether a version comes out again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import WORKSPACE, Answer, Options, command, complete_model

ROLES = {
    "train": "learnt from it",
    "validation": "chose its best step by it",
    "test": "was tested on it",
    "learnt": "learnt from it",
    "held out": "was tested on it",
}


def show_why(answer: Mapping[str, Any]) -> None:
    """Print what is known of an image, and open its heat map where there is a display."""
    from flows.cli.console import format_value, make_console, make_table, show_values

    lines: dict[str, Any] = {"digest": answer["digest"]}
    if answer["address"]:
        lines["file"] = answer["address"]
    lines["datasets"] = [_describe_dataset(each) for each in answer["datasets"]] or ["none has it"]
    lines["versions"] = [_describe_learner(each) for each in answer["versions"]] or ["none knows it"]
    lines |= _describe_now(answer["now"])
    show_values(lines, listed=("datasets", "versions", "now", "heat map"))
    if answer["predictions"]:
        titles = ("time (UTC)", "model", "label", "confidence", "decision", "path")
        rows = [_list_prediction(each) for each in answer["predictions"]]
        make_console().print(make_table("predictions", titles, rows, ("path",)))
    else:
        print(f"predictions  {format_value('no batch has it')}")
    _open_picture(answer["now"])


def _open_picture(now: Mapping[str, Any] | None) -> None:
    from flows.cli.models import has_display

    if now is not None and now["heat_map"] and has_display():
        import webbrowser

        webbrowser.open(Path(now["heat_map"]).as_uri())


def _describe_dataset(row: Mapping[str, Any]) -> str:
    split = f", {row['split']}" if row["split"] else ""
    reason = f" ({row['reason']})" if row["reason"] else ""
    latest = ", the latest" if row["latest"] else ""
    line = f"{row['dataset']}{latest}: {row['outcome']}{reason}{split}, filed under {row['label']}, {row['path']}"
    said = ", ".join(f"{column} {value!r}" for column, value in row["table"].items())
    return line + (f"; source.table: {said}" if said else "") + _describe_copies(row["copies"])


def _describe_copies(copies: Sequence[Mapping[str, Any]]) -> str:
    if not copies:
        return ""
    shown = ", ".join(f"{each['path']} ({each['outcome']})" for each in copies[:5])
    more = f" and {len(copies) - 5} more" if len(copies) > 5 else ""
    return f"; the same picture: {shown}{more}"


def _describe_learner(row: Mapping[str, Any]) -> str:
    alias = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
    return f"{row['model']}@{row['version']}{alias} {ROLES.get(row['role'], row['role'])}"


def _describe_now(now: Mapping[str, Any] | None) -> dict[str, Any]:
    """The lines on what is said at this moment."""
    if now is None:
        return {"now": ["no model is registered yet"]}
    if now["label"] is None:
        return {"now": [now["note"]]}
    guesses = ", ".join(f"{each['label']} {each['probability']:.1%}" for each in now["top_k"])
    said = f"{now['model']}@{now['version']} says {guesses}"
    return {"now": [said], "heat map": [line for line in (now["heat_map"], now["note"]) if line]}


def _list_prediction(row: Mapping[str, Any]) -> tuple[Any, ...]:
    moment = row["scored_at"][:16].replace("T", " ")
    model = f"{row['model']}@{row['version']}"
    if row["outcome"] != "ok":
        return moment, model, row["outcome"], None, row["reason"], row["path"]
    return moment, model, row["label"], row["confidence"], row["decision"], row["path"]


@command("safelight why inbox/IMG_2041.jpg", *WORKSPACE, show=show_why)
def why_command(
    options: Options,
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="Path or address of an image, its path below a source, or its sha256 (8 digits do)."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            autocompletion=complete_model,
            help="The model that is asked, or one version of it, as birds@3; else the champion.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the heat map is written (PNG).")
    ] = None,
) -> Answer:
    """Tell all that is known of one image, and show which places of it the model looked at.

    What became of it in each dataset, its split and its copies, which versions learnt from it, every prediction with
    version and time, and what the champion says now, with a heat map. An image that was never seen is scored.
    """
    from flows.why import explain_image

    return explain_image(options.workspace, image, model, out)


def show_reproduction(answer: Mapping[str, Any]) -> None:
    """Print whether a version came out again, a line for each thing that was otherwise."""
    from flows.cli.console import show_values

    show_values(answer, listed=("circumstances",))


@command(
    "safelight reproduce birds@3",
    *WORKSPACE,
    show=show_reproduction,
    failed=lambda answer: not answer["reproduced"],
)
def reproduce_command(
    options: Options,
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION", autocompletion=complete_model, help="A version; of a name the champion."
        ),
    ],
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="FOLDER", help="Where it is built, and stays; else it is removed at the end."),
    ] = None,
) -> Answer:
    """Make a version again from its record, and tell whether it comes out as it was.

    Its dataset is rebuilt from the source and its digest proven, or the files that are gone or have changed are named;
    then it is trained again with the settings and seed of then. Nothing is registered. With fit.deterministic it is to
    be equal to the last bit on the same kind of processor; else its accuracy lies inside the interval of then.
    """
    options.open_run()
    from flows.reproduce import reproduce
    from flows.stages import run_flow

    return run_flow(reproduce, model, options.workspace, str(into) if into else None)
