"""Error lines for settings: the setting, what was written, what is expected there, and what was probably meant."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from cnn.text import shorten, suggest_name

Schema = Mapping[str, Any]

MOST_SHOWN = 120  # characters of a value
OWN_RULE = "value_error"  # of a rule that is defined beside its setting, and has words of its own
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}


def describe_invalid(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """One line for the first thing wrong: the setting, the value received, what is expected, and what it means.

    All of it is read from the model's JSON schema, so that a new setting needs no words of its own here.
    """
    first = error.errors(include_url=False)[0]
    schema = make_json_schema(model)
    keys, found = _resolve(schema, first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(found.get("properties", {})))
        name = _join([*keys, first["loc"][-1]])
        return f"there is no setting {name}{suggest_setting(schema, name)}; known here: {known}"
    if first["type"] == "missing":
        return f"setting {_join(keys)} is missing; expected {describe_allowed(schema, found)}"
    written = f"setting {_join(keys)} = {shorten(show_value(_look_up(values, keys)), MOST_SHOWN)}"
    if first["type"] == OWN_RULE:
        message = first["msg"].removeprefix("Value error, ")
        return f"{written}: {message[0].lower()}{message[1:]}"
    usual = found.get("examples", [found.get("default")])[0]
    example = f", such as {show_value(usual)}" if "examples" in found or (usual and isinstance(usual, list)) else ""
    meaning = f" ({found['description']})" if "description" in found else ""
    return f"{written}: expected {describe_allowed(schema, found)}{example}{meaning}"


@cache
def make_json_schema(model: type[BaseModel]) -> Schema:
    """The JSON schema of settings; made once, for pydantic takes longer for it than for all else here."""
    return model.model_json_schema()


def suggest_setting(schema: Schema, name: str) -> str:
    """The setting that was probably meant: one with the same key in another section, else one with a similar name."""
    names = [
        f"{section}.{key}"
        for section, found in schema["properties"].items()
        for key in follow(schema, found)["properties"]
    ]
    key = name.rpartition(".")[2]
    same = [known for known in names if known.partition(".")[2] == key]
    return suggest_name(name, [*names, *schema["properties"]], same)


def _resolve(schema: Schema, location: Sequence[int | str]) -> tuple[list[int | str], Schema]:
    """The keys that lead to the setting at a location, and its schema; what is inside of a plain value is left out."""
    keys: list[int | str] = []
    found: Schema = schema
    for part in location:
        found = follow(schema, found)
        if part in found.get("properties", {}):
            found = found["properties"][part]
        elif isinstance(part, int) and "oneOf" in found.get("items", {}):
            found = found["items"]
        elif part in found.get("discriminator", {}).get("mapping", {}):
            found = {"$ref": found["discriminator"]["mapping"][part]}
            continue  # no key of the file: the kind of a layer, by which pydantic chose its rules
        else:
            break
        keys.append(part)
    return keys, follow(schema, found)


def follow(schema: Schema, found: Schema) -> Schema:
    """What a reference refers to; other schemas as they are."""
    while "$ref" in found:
        found = schema["$defs"][found["$ref"].rpartition("/")[2]]
    return found


def describe_allowed(schema: Schema, found: Schema) -> str:
    """In English, the values that a schema allows."""
    found = follow(schema, found)
    if "anyOf" in found:
        return _join_choices([describe_allowed(schema, choice) for choice in found["anyOf"]])
    if "discriminator" in found:
        kinds = ", ".join(sorted(found["discriminator"]["mapping"]))
        return f"a table whose {found['discriminator']['propertyName']} is one of {kinds}"
    if "enum" in found or "const" in found:
        return " or ".join(map(show_value, found.get("enum", [found.get("const")])))
    match found.get("type"):
        case "integer":
            return "a whole number" + _describe_bounds(found)
        case "number":
            return "a number" + _describe_bounds(found)
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "array":
            return _describe_list(schema, found)
        case "object":
            return "a table of settings"
        case _:
            return "text"


def _describe_list(schema: Schema, found: Schema) -> str:
    items = found.get("prefixItems")
    if items:
        each = describe_allowed(schema, items[0]).removeprefix("a ").replace("number", "numbers", 1)
        return f"{COUNTS.get(len(items), len(items))} {each} in brackets"
    each = describe_allowed(schema, found.get("items", {}))
    return "a list of texts" if each == "text" else f"a list, each of it {each}"


def _describe_bounds(found: Schema) -> str:
    low, high = found.get("minimum"), found.get("maximum")
    above, below = found.get("exclusiveMinimum"), found.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:.12g} to {high:.12g}"
    words = [
        f"of at least {low:.12g}" if low is not None else "",
        f"above {above:.12g}" if above is not None else "",
        f"of at most {high:.12g}" if high is not None else "",
        f"below {below:.12g}" if below is not None else "",
    ]
    return "".join(f" {word}" for word in [" and ".join(filter(None, words))] if word)


def _join_choices(choices: Sequence[str]) -> str:
    return ", or ".join(dict.fromkeys(choices))


def _look_up(values: Any, keys: Sequence[int | str]) -> Any:
    """What was written at these keys; None where the section itself is no section."""
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _join(keys: Sequence[int | str]) -> str:
    """`model.layers[0].filters`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def show_value(value: Any) -> str:
    """A value as TOML has it, and null for none."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {show_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    if isinstance(value, str) and "\\" in value and not {"'", "\n"} & set(value):
        return f"'{value}'"  # a pattern, without doubled backslashes
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
