"""Base classes of settings and of values that travel: frozen, unknown keys refused, one digest for each content."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from cnn.digest import canonical_json, hash_json


class Spec(BaseModel):
    """A frozen value that refuses unknown keys and says which value it refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, so that equal values are equal bytes."""
        return canonical_json(self.model_dump(mode="json"))

    def compute_digest(self) -> str:
        """sha256 (hex) of the canonical JSON."""
        return hash_json(self.model_dump(mode="json"))


class Settings(Spec):
    """A section of the configuration: what a person wrote is taken as meant, or refused.

    Infinity and nan are no numbers here, and true and false none either: pydantic alone reads `epochs = true` as 1.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Where no truth value is asked for, `true` goes on as a word, which is refused like any other."""
        if not isinstance(values, dict):
            return values
        return {
            key: str(value).lower()
            if key in cls.model_fields and _holds_truth(value) and not _asks_for_truth(cls.model_fields[key].annotation)
            else value
            for key, value in values.items()
        }


def _holds_truth(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_truth(item) for item in value)
    return isinstance(value, bool)


def _asks_for_truth(annotation: Any) -> bool:
    return annotation is bool or any(_asks_for_truth(part) for part in get_args(annotation))


def as_pair(value: Any) -> Any:
    """(n, n) for a whole number n, for fields of height and width; anything else as it is."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
