"""Answers of a model registry in, versions, the champion and its history out. registry.py asks the questions."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cnn.errors import RegistryError
from infra import moves
from infra.moves import Move

CHAMPION, CHALLENGER = "champion", "challenger"
METRIC = "metric."


@dataclass(frozen=True)
class VersionInfo:
    """A registered version. `bundle` is the sha256 of its bundle.json, `location` the address of its artifacts."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: str
    metrics: dict[str, float]
    verdict: str | None
    reasons: tuple[str, ...]
    dataset: str
    run_id: str
    bundle: str
    location: str
    tags: dict[str, str]


class AbsentError(RegistryError):
    """The registry answered that there is no such thing."""


class Versions(ABC):
    """Versions, aliases and the kept moves of the champion, whoever answers."""

    @abstractmethod
    def _ask(self, verb: str, *values: Any, **named: Any) -> Any:
        """The answer to one question; raises `AbsentError` where there is no such thing."""

    @abstractmethod
    def _pages(self, verb: str, *values: Any, **named: Any) -> Iterator[Any]:
        """Every entry of an answer that comes in pages."""

    def names(self) -> list[str]:
        """The registered models, by name."""
        return sorted(str(model.name) for model in self._pages("search_registered_models", max_results=100))

    def versions(self, name: str) -> list[VersionInfo]:
        """Every version of a model, oldest first.

        Raises:
            RegistryError: there is no such model.
        """
        aliases = self._model(name).aliases
        found = self._pages("search_model_versions", f"name = '{name}'", max_results=1000)
        return sorted((read_version(entry, aliases) for entry in found), key=lambda info: info.version)

    def version(self, name: str, number: int) -> VersionInfo:
        """One version of a model.

        Raises:
            RegistryError: there is no such model or version.
        """
        aliases = self._model(name).aliases
        try:
            return read_version(self._ask("get_model_version", name, str(number)), aliases)
        except AbsentError:
            raise RegistryError(f"model {name} has no version {number}; `safelight models {name}` lists them") from None

    def set_tags(self, name: str, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._ask("set_model_version_tag", name, str(number), key, value)

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version.

        Raises:
            RegistryError: there is no such model or version, or the alias is `champion`, whose moves need a reason.
        """
        if alias == CHAMPION:
            raise RegistryError("the champion moves with a reason: `safelight promote` or `safelight rollback`")
        self.version(name, number)
        self._ask("set_registered_model_alias", name, alias, str(number))

    def drop_alias(self, name: str, alias: str) -> None:
        """Take an alias away; one that is not there is no fault."""
        if alias in self._model(name).aliases:
            self._ask("delete_registered_model_alias", name, alias)

    def champion(self, name: str) -> VersionInfo | None:
        """The version that scores, or None where the model or its champion does not exist."""
        try:
            number = champion_number(self._model(name))
        except AbsentError:
            return None
        return None if number is None else self.version(name, number)

    def require_champion(self, name: str) -> VersionInfo:
        """The version that scores.

        Raises:
            RegistryError: there is no such model, or it has no champion yet.
        """
        model = self._model(name)
        number = champion_number(model)
        if number is None:
            raise RegistryError(
                f"model {name} has no champion yet{self._explain_challenger(name, model)}; choose a version: "
                f"`safelight promote {name} VERSION --why …`, or retrain with more images or other settings"
            )
        return self.version(name, number)

    def _explain_challenger(self, name: str, model: Any) -> str:
        """Why the latest version that was held back was, as the gate said."""
        if CHALLENGER not in model.aliases:
            return ""
        held = self.version(name, int(model.aliases[CHALLENGER]))
        return f": version {held.version} was held back ({held.reasons[0]})" if held.reasons else ""

    def move_champion(self, name: str, version: int, why: str, by: str, at: datetime) -> bool:
        """Make a version the champion and keep the reason; False when it is the champion already.

        Raises:
            RegistryError: there is no such model or version, or it carries no bundle.
        """
        return self._move(name, Move(None, version, why, by, moves.format_time(at)))

    def rollback_champion(self, name: str, why: str, by: str, at: datetime) -> VersionInfo:
        """Make the champion before the present one champion again; returns it.

        Raises:
            RegistryError: there is no such model, no champion, or none before it.
        """
        present = self.require_champion(name).version
        previous = moves.previous_champion(moves.decode_moves(self._model(name).tags), present)
        if previous is None:
            raise RegistryError(
                f"model {name} had no champion before version {present}; "
                f"choose a version: `safelight promote {name} VERSION --why …`"
            )
        self._move(name, Move(present, previous, why, by, moves.format_time(at), "rollback"))
        return self.version(name, previous)

    def history(self, name: str) -> list[Move]:
        """The moves of the champion alias that took place, oldest first.

        Raises:
            RegistryError: there is no such model.
        """
        model = self._model(name)
        return moves.applied_moves(moves.decode_moves(model.tags), champion_number(model))

    def _move(self, name: str, move: Move) -> bool:
        """Write the move down, then move: no move is without its reason, and the alias tells one that was cut short."""
        if not self.version(name, move.to_version).bundle:
            raise RegistryError(
                f"model {name} version {move.to_version} carries no Safelight bundle; train one that does"
            )
        model = self._model(name)
        present = champion_number(model)
        if present == move.to_version:
            return False
        entry = Move(present, move.to_version, move.why, move.by, move.at, move.kind)
        key, value = moves.encode_move(entry, moves.next_number(model.tags))
        self._ask("set_registered_model_tag", name, key, value)
        self._ask("set_registered_model_alias", name, CHAMPION, str(move.to_version))
        return True

    def _model(self, name: str) -> Any:
        try:
            return self._ask("get_registered_model", name)
        except AbsentError:
            known = self.names()
            there = (
                f"there are {', '.join(known[:10])}{', …' if len(known) > 10 else ''}" if known else "there is none yet"
            )
            raise AbsentError(
                f"no model is named {name}: {there}; `safelight train DATASET --name {name}` makes one"
            ) from None


def champion_number(model: Any) -> int | None:
    """The version that the alias `champion` of a registered model points at."""
    number = model.aliases.get(CHAMPION)
    return None if number is None else int(number)


def read_version(entry: Any, aliases: Mapping[str, Any]) -> VersionInfo:
    """A registry's entry, with the aliases that its model gives it, as a value of ours."""
    tags = dict(entry.tags)
    return VersionInfo(
        name=str(entry.name),
        version=int(entry.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(entry.version))),
        created=moves.format_time(datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC)),
        metrics={key.removeprefix(METRIC): float(value) for key, value in tags.items() if key.startswith(METRIC)},
        verdict=tags.get("gate.verdict"),
        reasons=tuple(json.loads(tags.get("gate.reasons", "[]"))),
        dataset=tags.get("dataset", ""),
        run_id=str(entry.run_id or ""),
        bundle=tags.get("bundle", ""),
        location=str(entry.source),
        tags=tags,
    )
