"""The commands `settings` and `init`: every setting with its default and meaning, printed or as a file to edit."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from cnn.errors import ConfigError
from flows.cli.console import format_value
from flows.cli.options import CONFIG, Answer, Options, command

FACTS = ("default", "value", "allowed", "meaning")  # of a setting, in the JSON object


def show_settings(answer: Answer) -> None:
    """Print the answer of `settings`: paragraphs on a terminal, elsewhere a line for each setting, to be searched."""
    if "markdown" in answer:
        print(answer["markdown"], end="")
        return
    from flows.settings import describe_section

    wide, section = shutil.get_terminal_size().columns, ""
    for name, facts in answer["settings"].items():
        if not sys.stdout.isatty():
            print(f"{_show_assignment(name, facts)}  # {facts['meaning']}")
            continue
        if (first := name.partition(".")[0]) != section:
            section = first
            print(textwrap.fill(f"[{section}] {describe_section(section)}", wide, initial_indent="\n"))
        print(f"  {typer.style(_show_assignment(name, facts), bold=True)}")
        text = f"{facts['meaning']} ({facts['allowed']})"
        print(textwrap.fill(text, wide, initial_indent=" " * 6, subsequent_indent=" " * 6))


def show_file(answer: Answer) -> None:
    """Print the answer of `init`, and what to do next."""
    print(f"wrote {format_value(answer['file'])}: every setting with its default, none changed")
    print("next: open it in an editor, remove the # before a setting, write your value;")
    print("`safelight settings` lists what is in force for commands typed in this folder")


@command("safelight settings image", *CONFIG, show=show_settings)
def settings_command(
    options: Options,
    part: Annotated[
        str | None, typer.Argument(metavar="PART", help="A section such as image, or a setting such as image.size.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print them as a page in Markdown.")] = False,
) -> Answer:
    """List every setting with default, meaning and present value."""
    from flows.settings import list_settings, write_page

    if markdown:
        return {"markdown": write_page()}
    found = list_settings(options.load_config(), part)
    return {"settings": {each.name: {fact: getattr(each, fact) for fact in FACTS} for each in found}}


@command("safelight init", show=show_file)
def init_command(
    options: Options,
    path: Annotated[
        Path, typer.Option("--path", metavar="FILE", help="Where to write it; a file that exists stays as it is.")
    ] = Path("safelight.toml"),
) -> Answer:
    """Write a safelight.toml that lists every setting, to be edited."""
    from flows.settings import write_toml

    text, file = write_toml(), path / "safelight.toml" if path.is_dir() else path
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already and stays as it is; name another file with --path") from None
    return {"file": str(file.absolute())}


def _show_assignment(name: str, facts: dict[str, Any]) -> str:
    """`image.size = [64, 64] (default: [96, 96])`."""
    from flows.settings import show_setting_value

    default, value = show_setting_value(facts["default"]), show_setting_value(facts["value"])
    return f"{name} = {value}" + (f" (default: {default})" if value != default else "")
