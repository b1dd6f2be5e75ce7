"""Render the HTML pages: Jinja templates beside the module that fills them, on one paper that they share.

A template begins with `{% extends "pages/paper.html" %}` and fills its blocks: title, style, header, main. Everything
that is put into it is escaped.
"""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tasks.pages.html import (
    capitalize_sentence,
    mark_breaks,
    mark_commands,
    show_count,
    show_name,
    show_percent,
    show_tail,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(template: str, **values: Any) -> str:
    """The page as HTML text. `template` is a path below tasks/, such as `score/report.html`; a name in it that is not
    among the values is an error.
    """
    return _open_templates().get_template(template).render(**values)


@cache
def _open_templates() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: files("tasks").joinpath(name).read_text("utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    environment.filters |= {"name": show_name, "tail": show_tail, "count": show_count, "percent": show_percent}
    environment.filters |= {"breakable": mark_breaks, "commands": mark_commands, "sentence": capitalize_sentence}
    return environment
