"""Model versions, their aliases, the champion and its history."""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cnn.errors import RegistryError
from infra.registry import history as moves
from infra.registry.history import Move
from infra.registry.mlflow_client import AbsentError, MlflowConnection
from infra.registry.tracking import describe_absence

CHAMPION, CHALLENGER = "champion", "challenger"
# Tags of a version: its metrics, how many images its dataset holds, what the metrics were measured on and of which
# classes there were no images there (as JSON); what the gate weighed (as JSON) and when its verdict was applied.
METRIC, IMAGES, JUDGED_ON, UNJUDGED = "metric.", "safelight.images", "safelight.judged_on", "safelight.unjudged"
GATE_APPLIED, WEIGHED = "gate.applied", "gate.weighed"
# With the kind of group after it (`group`, `camera`, `column:site`): accuracy at groups that the model knows and at new
# ones, as JSON.
UNSEEN = "safelight.unseen_"
# The best version that the test images have judged up to this one, behind it those that could not be judged then; how
# many they have judged, and the settings that drew them.
BEST, LOOKS, SPLIT_DRAWN = "gate.best", "gate.looks", "gate.split"
# score.promise and score.promise_by of its training, where a promise was set.
PROMISE, PROMISE_BY = "safelight.promise", "safelight.promise_by"
HELD_OUT = "safelight.held_out"  # names of the test sets that it has not learnt from, as JSON, see `split.refresh`
RECORD = "safelight.record"  # sha256 of the record of its training
# When `safelight gc` began to remove a version's files (ISO 8601, UTC), and, once it has come to its end, their bytes.
FILES_REMOVED, FREED = "safelight.files_removed", "safelight.files_removed_bytes"


@dataclass(frozen=True)
class VersionInfo:
    """A registered version. `bundle` is the sha256 of its bundle.json, `location` the address of its artifacts.

    `metrics` were measured on `judged_on` (as `test split of birds-1`, "" where nobody knows), where there were no
    images of the classes `unjudged`; `images` is the size of its dataset, `promise` the settings by which its accepted
    answers were held to a promise, as `score.promise=0.98`; () where nothing was promised.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    created: str
    metrics: dict[str, float]
    judged_on: str
    unjudged: tuple[str, ...]
    images: int | None
    promise: tuple[str, ...]
    verdict: str | None
    reasons: tuple[str, ...]
    dataset: str
    run_id: str
    bundle: str
    location: str
    tags: dict[str, str]

    @property
    def alias(self) -> str:
        """The alias that says most: champion, else challenger, else none ("")."""
        return next((alias for alias in (CHAMPION, CHALLENGER) if alias in self.aliases), "")

    @property
    def is_gated(self) -> bool:
        """Whether the gate has come to its end with it."""
        return GATE_APPLIED in self.tags

    @property
    def has_files(self) -> bool:
        """Whether it is one of ours that carries its bundle still."""
        return bool(self.bundle) and FILES_REMOVED not in self.tags

    def describe_removal(self) -> str:
        """Since when its files are gone, and what makes them again, in one line."""
        date = self.tags.get(FILES_REMOVED, "")[:10]
        return (
            f"the files of {self.name}@{self.version} were removed by `safelight gc` on {date}; its record stays:"
            f" `safelight reproduce {self.name}@{self.version}` trains it again"
        )

    def describe_accuracy(self) -> str:
        """Its accuracy and what it was measured on, in one line; "" where it has none."""
        return describe_measured_accuracy(self.metrics, self.judged_on)


@dataclass(frozen=True)
class LostChampion:
    """A champion that the history knows, though no version has the alias now; `before` is the last champion that is
    still there, which may be the same one.
    """

    name: str
    version: int
    is_deleted: bool
    before: VersionInfo | None

    def describe(self) -> str:
        """What became of it, and the way out where no former champion is left."""
        fate = "was deleted" if self.is_deleted else "has lost its alias"
        lost = f"the champion, version {self.version}, {fate} in MLflow"
        if self.before is None:
            return f"{lost}, and no former champion is left: `safelight promote {self.name} VERSION --why …` makes one"
        if self.before.version == self.version:
            return f"{lost}; it still counts as the champion to compare with"
        return f"{lost}; version {self.before.version}, champion before it, counts as the one to compare with"


class Versions(MlflowConnection):
    """Versions, aliases and the kept moves of the champion."""

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

    def drop_tags(self, name: str, number: int, keys: Iterable[str]) -> None:
        """Take tags of a version away; one that is not there is no fault."""
        for key in keys:
            with suppress(AbsentError):
                self._ask("delete_model_version_tag", name, str(number), key)

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
        if number is not None:
            return self.version(name, number)
        choose = f"choose a version: `safelight promote {name} VERSION --why …`"
        lost = self.lost_champion(name)
        if lost is None:
            raise RegistryError(
                f"model {name} has no champion yet{self._explain_challenger(name, model)}; {choose}, or retrain with "
                "more images or other settings"
            )
        fate = "was deleted" if lost.is_deleted else "has lost its alias"
        back = (
            "" if lost.before is None else f"`safelight rollback {name} --why …` returns to {lost.before.version}, or "
        )
        raise RegistryError(f"model {name}: its champion, version {lost.version}, {fate} in MLflow; {back}{choose}")

    def lost_champion(self, name: str) -> LostChampion | None:
        """The last champion, where the alias is gone although the history knows one; None while there is a champion,
        and before the first one.
        """
        try:
            model = self._model(name)
        except AbsentError:
            return None
        kept = moves.decode_moves(model.tags)
        if champion_number(model) is not None or not kept:
            return None
        there = {version.version: version for version in self.versions(name) if version.bundle}
        champions = moves.list_champions(kept, None)
        last = kept[-1].to_version
        if not champions and last is not None and (last not in there or there[last].is_gated):
            champions = [last]  # an old history, without marks: what looks like a move cut short was one
        if not champions:
            return None
        usable = (there[number] for number in reversed(champions) if number in there)
        before = next((version for version in usable if version.has_files), None)
        return LostChampion(name, champions[-1], champions[-1] not in there, before)

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

        Where the champion's version was deleted, that is the last champion which is still there.

        Raises:
            RegistryError: there is no such model, it never had a champion, or none is left before the present one.
        """
        model = self._model(name)
        present, kept = champion_number(model), moves.decode_moves(model.tags)
        if present is None and not moves.list_champions(kept, None):
            self.require_champion(name)
        previous = moves.previous_champion(kept, present, lambda number: self._is_usable(name, number))
        if previous is None:
            there = {version.version for version in self.versions(name) if version.bundle}
            raise RegistryError(_explain_no_rollback(name, moves.list_champions(kept, present), present, there))
        self._move(name, Move(present, previous, why, by, moves.format_time(at), "rollback"))
        return self.version(name, previous)

    def _is_usable(self, name: str, number: int) -> bool:
        """Whether the version is still there with its files, and one of ours."""
        try:
            return read_version(self._ask("get_model_version", name, str(number)), {}).has_files
        except AbsentError:
            return False

    def history(self, name: str) -> list[Move]:
        """The moves of the champion alias that took place, oldest first, those made outside Safelight among them.

        Raises:
            RegistryError: there is no such model.
        """
        model = self._model(name)
        return moves.applied_moves(moves.decode_moves(model.tags), champion_number(model))

    def unreadable_moves(self, name: str) -> list[str]:
        """The tags of the model's history that somebody has edited so that they cannot be read."""
        return moves.find_unreadable(self._model(name).tags)

    def _move(self, name: str, move: Move) -> bool:
        """Write the move down, then move, then mark it: no move is without its reason, and one cut short shows.

        Whoever removes files of a version says so first, and then looks for moves to it: one of the two sees the other.
        """
        number = move.to_version
        if number is None or not self.version(name, number).bundle:
            raise RegistryError(f"model {name} version {number} carries no Safelight bundle; train one that does")
        self._require_files(name, number)
        model = self._model(name)
        present = champion_number(model)
        if present == number:
            return False
        key, value = moves.encode_move(replace(move, from_version=present), moves.next_number(model.tags))
        self._ask("set_registered_model_tag", name, key, value)
        self._require_files(name, number)
        self._ask("set_registered_model_alias", name, CHAMPION, str(number))
        self._ask("set_registered_model_tag", name, key, moves.mark_done(value))
        return True

    def _require_files(self, name: str, number: int) -> None:
        version = self.version(name, number)
        if not version.has_files:
            raise RegistryError(f"model {name}: {version.describe_removal()}")

    def list_possible_champions(self, name: str, former: int) -> set[int]:
        """The champion, `former` ones before it to which a rollback leads, and the last ones in time, among them the
        one that a rollback left and the one that a move which was begun leads to."""
        model = self._model(name)
        kept, present = moves.decode_moves(model.tags), champion_number(model)
        pile = dict.fromkeys(reversed(moves.list_champions(kept, present)))
        recent = dict.fromkeys(move.to_version for move in reversed(kept) if move.to_version is not None)
        return {*list(pile)[: former + 1], *list(recent)[: former + 1]}

    def _model(self, name: str) -> Any:
        try:
            return self._ask("get_registered_model", name)
        except AbsentError:
            raise AbsentError(describe_absence(name, self.names())) from None


def describe_measured_accuracy(figures: Mapping[str, float], judged_on: str) -> str:
    """See `VersionInfo.describe_accuracy`."""
    if "accuracy" not in figures:
        return ""
    accuracy = f"accuracy {figures['accuracy']:.4f}"
    if {"accuracy_low", "accuracy_high"} <= set(figures):
        accuracy += f" ({figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f})"
    images = f"{figures['test_images']:,.0f} images" if "test_images" in figures else "images of an unknown number"
    return f"{accuracy} on {images}, {judged_on or 'nobody knows which'}"


def champion_number(model: Any) -> int | None:
    """The version that the alias `champion` of a registered model points at."""
    number = model.aliases.get(CHAMPION)
    return None if number is None else int(number)


def read_version(entry: Any, aliases: Mapping[str, Any]) -> VersionInfo:
    """A registry's entry, with the aliases that its model gives it, as a value of ours.

    What somebody has edited so that it cannot be read, a metric that is no number say, is left out.
    """
    tags = {str(key): str(value) for key, value in dict(entry.tags).items()}
    metrics = {key.removeprefix(METRIC): _read_number(value) for key, value in tags.items() if key.startswith(METRIC)}
    split, dataset = tags.get("judged_on", ""), tags.get("dataset", "")  # the split alone: of an older release
    images = tags.get(IMAGES, "")
    return VersionInfo(
        name=str(entry.name),
        version=int(entry.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(entry.version))),
        created=moves.format_time(datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC)),
        metrics={key: value for key, value in metrics.items() if value is not None},
        judged_on=tags.get(JUDGED_ON, f"{split} split of {dataset}" if split and dataset else ""),
        unjudged=_read_texts(tags.get(UNJUDGED, "[]")) or (),
        images=int(images) if images.isascii() and images.isdigit() else None,
        promise=_read_promise(tags),
        verdict=tags.get("gate.verdict"),
        reasons=_read_reasons(tags.get("gate.reasons", "[]")),
        dataset=dataset,
        run_id=str(entry.run_id or ""),
        bundle=tags.get("bundle", ""),
        location=str(entry.source),
        tags=tags,
    )


def _read_promise(tags: Mapping[str, str]) -> tuple[str, ...]:
    share = _read_number(tags.get(PROMISE, ""))
    if share is None:
        return ()
    return (f"score.promise={share!r}", *(["score.promise_by=class"] if tags.get(PROMISE_BY) == "class" else []))


def _read_number(text: str) -> float | None:
    """The number, or None for what is none, or not finite: no JSON could hold that."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def clean_tag(text: str) -> str:
    """A text as part of a tag's name, as MLflow takes it."""
    return re.sub(r"[^\w.\- :]", "_", text)[:100]


def _read_reasons(text: str) -> tuple[str, ...]:
    """The gate's sentences; text that is no list of them counts as one."""
    found = _read_texts(text)
    return (text,) if found is None else found


def _read_texts(text: str) -> tuple[str, ...] | None:
    """A JSON list of texts; None where it is something else, edited by hand."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def _explain_no_rollback(name: str, champions: list[int], present: int | None, there: Collection[int]) -> str:
    choose = f"choose a version: `safelight promote {name} VERSION --why …`"
    gone = [number for number in dict.fromkeys(champions) if number != present]
    if present is not None and not gone:
        return f"model {name} had no champion before version {present}; {choose}"
    numbers = ", ".join(map(str, gone))
    were = f"version {numbers}, was" if len(gone) == 1 else f"versions {numbers}, were"
    fate = "deleted in MLflow" + (", or `safelight gc` has removed the files" if set(gone) & set(there) else "")
    return f"model {name}: what was champion before, {were} {fate}; {choose}"
