"""List all settings with default, value, rule and meaning, and write them as a safelight.toml or as a page."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic_core import to_jsonable_python

from cnn.errors import ConfigError
from flows.config import DEFAULT_FILE, Config
from flows.config_errors import Schema, describe_allowed, follow, make_json_schema, show_value, suggest_setting

WIDTH = 100  # columns of a comment in a safelight.toml
NOT_SET = "not set"
MARKS, BEFORE_MARK = re.compile(r"([|*])"), r"\\\1"  # what Markdown would not show in a cell of a table
FILE_HEAD = """\
Settings of Safelight. A line that begins with # changes nothing: here each setting is shown with its default,
or, where nothing is set by default, with an example.
To change a setting, remove the # before it and write another value. `safelight settings` lists what is in force."""
PAGE_HEAD = f"""\
# Settings

<!-- Written by `safelight settings --markdown`; the texts are those beside the settings in the code. -->

A command reads settings from `{DEFAULT_FILE}` in the folder where it is typed (`--config` names another file), and then
from `--set section.key=value` on the command line. `safelight init` writes a `{DEFAULT_FILE}` to begin with, and
`safelight settings` lists what is in force. Values are written as in [TOML](https://toml.io): text in quotes, lists in
brackets. *Not set* means that there is no value: leave the line out, or write `--set section.key=null`.
"""
PAGE_LAYERS = """\
## Layers of `model.layers`

A layer is a table with its `kind` and these keys; [networks.md](networks.md) shows a whole network.
"""


@dataclass(frozen=True)
class Setting:
    """A setting by name (image.size): default and present value as JSON has them, what may be written, what it means.

    `example` is the default, or where that is nothing (null, an empty list) a value that may be written there.
    """

    name: str
    default: Any
    value: Any
    allowed: str
    meaning: str
    example: Any

    @property
    def section(self) -> str:
        """The first part of its name."""
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """The second part of its name."""
        return self.name.partition(".")[2]


def list_settings(config: Config, part: str | None = None) -> list[Setting]:
    """All settings, or those of one section, or the one of that name.

    Raises:
        ConfigError: there is no such section or setting.
    """
    schema = make_json_schema(Config)
    found = [
        _make_setting(schema, section, key, config)
        for section, settings in Config()
        for key in type(settings).model_fields
        if part in (None, section, f"{section}.{key}")
    ]
    if not found:
        known = ", ".join(Config.model_fields)
        raise ConfigError(f"there is no setting {part}{suggest_setting(schema, str(part))}; sections: {known}")
    return found


def describe_section(section: str) -> str:
    """What the settings of a section are about."""
    return _make_sentence(type(getattr(Config(), section)).__doc__ or "")


def show_setting_value(value: Any) -> str:
    """A value as TOML has it, which has no word for none."""
    return NOT_SET if value is None else show_value(value)


def write_toml() -> str:
    """A file of settings that changes nothing: every setting with meaning and default, behind a #."""
    lines = [*_comment(FILE_HEAD)]
    for section, settings in groupby(list_settings(Config()), lambda setting: setting.section):
        lines += ["", "", *_comment(describe_section(section)), f"[{section}]"]
        for setting in settings:
            usual = "" if setting.example == setting.default else f" Default: {show_setting_value(setting.default)}."
            meaning = f"{_make_sentence(setting.meaning)}{usual}"
            lines += ["", *_comment(meaning), f"#{setting.key} = {show_value(setting.example)}"]
    return "\n".join([*lines, ""])


def write_page() -> str:
    """The page of all settings, in Markdown."""
    parts = [PAGE_HEAD]
    for section, settings in groupby(list_settings(Config()), lambda setting: setting.section):
        rows = [(f"`{each.name}`", show_setting_value(each.default), each.allowed, each.meaning) for each in settings]
        parts += [f"## {section}\n\n{describe_section(section)}\n", _write_table(rows)]
    return "\n".join([*parts, PAGE_LAYERS, _write_table(_list_layers())])


def _make_setting(schema: Schema, section: str, key: str, config: Config) -> Setting:
    found = follow(schema, schema["properties"][section])["properties"][key]
    default, value = (to_jsonable_python(getattr(getattr(each, section), key)) for each in (Config(), config))
    return Setting(
        name=f"{section}.{key}",
        default=default,
        value=value,
        allowed=describe_allowed(schema, found),
        meaning=found["description"],
        example=found.get("examples", [default])[0],
    )


def _list_layers() -> Iterator[tuple[str, str, str, str]]:
    """A row for each key of each kind of layer: name, default, what may be written, meaning."""
    schema = make_json_schema(Config)
    kinds = follow(schema, schema["properties"]["model"])["properties"]["layers"]["items"]["discriminator"]["mapping"]
    for kind, reference in kinds.items():
        layer = follow(schema, {"$ref": reference})
        yield f'`kind = "{kind}"`', "", "", layer["description"]
        for key, found in layer["properties"].items():
            if key != "kind":
                default = show_setting_value(found["default"]) if "default" in found else "required"
                yield f"`{key}`", default, describe_allowed(schema, found), found["description"]


def _write_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    lines = ["| setting | default | what may be written | meaning |", "|---|---|---|---|"]
    for name, default, allowed, meaning in rows:
        shown = default if default in (NOT_SET, "required", "") else f"`{default}`"
        texts = [name, shown, allowed.removesuffix(", or null"), _make_sentence(meaning)]
        lines.append(f"| {' | '.join(MARKS.sub(BEFORE_MARK, text) for text in texts)} |")
    return "\n".join([*lines, ""])


def _make_sentence(text: str) -> str:
    text = " ".join(text.split())
    return f"{text[0].upper()}{text[1:].removesuffix('.')}."


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
