"""The models of a workspace: champion, age, accuracy, what was held back, and what waits for a person's eye."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cnn.errors import SafelightError
from flows.models import open_registry
from flows.notices import find_review_excess
from flows.upkeep.findings import Finding
from infra.registry.tracking import holds_registry, resolve_tracking
from infra.registry.versions import VersionInfo
from infra.storage.layout import BATCH_POINTERS
from infra.storage.store import Store, open_store
from tasks.score.batch import BatchRecord, read_batch
from tasks.score.results import read_results


@dataclass(frozen=True)
class ModelState:
    """A model: its champion and newest version, each None where there is none, and its latest batch of each inbox."""

    name: str
    champion: VersionInfo | None
    newest: VersionInfo | None
    batches: tuple["InboxState", ...]

    def describe(self, now: datetime) -> dict[str, Any]:
        """The row of a table, as JSON has it; `age_days` counts from when the champion was made."""
        champion, newest = self.champion, self.newest
        made = None if champion is None else parse_moment(champion.created)
        return {
            "model": self.name,
            "champion": champion.version if champion else None,
            "created": champion.created if champion else None,
            "age_days": None if made is None else round((now - made) / timedelta(days=1), 2),
            "accuracy": champion.metrics.get("accuracy") if champion else None,
            "judged_on": champion.judged_on or None if champion else None,
            "newest": newest.version if newest else None,
            "newest_verdict": newest.verdict if newest else None,
            "batches": [inbox.describe() for inbox in self.batches],
        }

    def find_troubles(self, since: datetime, review_share: float) -> Iterator[Finding]:
        """What of it needs a person: no champion, a version held back or too much to review since a moment."""
        if self.newest is not None and self.champion is None:
            way = f"safelight promote {self.name} {self.newest.version} --why …"
            yield Finding("champion", f"{self.name} has no champion, so nothing is scored", way, self.name)
        newest = self.newest
        if newest is not None and newest.verdict == "hold" and "champion" not in newest.aliases:
            made, reason = parse_moment(newest.created), newest.reasons[0] if newest.reasons else "no reason is kept"
            if made is None or made >= since:
                what = f"{self.name} version {newest.version} was held back: {reason}"
                way = f"safelight open {self.name} {newest.version} shows why; safelight promote overrules it"
                yield Finding("held", what, way, self.name, str(newest.version))
        for inbox in self.batches:
            if inbox.is_since(since) and (found := inbox.find_excess(review_share)) is not None:
                yield found


@dataclass(frozen=True)
class InboxState:
    """The latest batch of an inbox, and how many of its new images came to which decision."""

    batch: BatchRecord
    new: Mapping[str, int]
    report: str  # its address

    def is_since(self, since: datetime) -> bool:
        """Whether it was scored after a moment."""
        scored = parse_moment(self.batch.scored_at)
        return scored is None or scored >= since

    def find_excess(self, limit: float) -> Finding | None:
        """More to review than the limit, or None."""
        name = self.batch.model.name
        notice = find_review_excess(name, self.new, limit, self.report)
        return (
            None if notice is None else Finding("review", notice.text, f"look at {self.report}", name, self.batch.batch)
        )

    def describe(self) -> dict[str, Any]:
        """What of it waits for a person's eye, as JSON has it."""
        images, review = sum(self.batch.decisions.values()), self.batch.decisions.get("review", 0)
        return {
            "source": self.batch.source,
            "scored_at": self.batch.scored_at,
            "images": images,
            "new": dict(self.new),
            "review": review,
            "unknown": self.batch.decisions.get("unknown", 0),
            "review_share": round(review / images, 4) if images else 0.0,
            "quarantined": self.batch.outcomes.get("quarantined", 0),
            "report": self.report,
        }


def read_models(workspace: str) -> list[ModelState]:
    """The models of a workspace, by name. Raises: SafelightError."""
    if not holds_registry(resolve_tracking(workspace)[0]):
        return []
    registry, inboxes = open_registry(workspace), list_inboxes(open_store(workspace))
    found = []
    for name in registry.names():
        versions = registry.versions(name)
        champion = next((each for each in versions if "champion" in each.aliases), None)
        own = tuple(inbox for inbox in inboxes if inbox.batch.model.name == name)
        found.append(ModelState(name, champion, versions[-1] if versions else None, own))
    return found


def list_inboxes(store: Store) -> list[InboxState]:
    """The latest batch of each inbox and model, the newest first; what cannot be read is left out."""
    found = []
    for entry in store.list(BATCH_POINTERS):
        try:
            record = read_batch(store, str(json.loads(store.read(entry.path))["batch"]))
        except (ValueError, KeyError, TypeError, SafelightError):
            continue  # whoever scores next is told
        if record is not None:
            results = read_results(store, record.source, record.model.name)
            new = results.new if results is not None and results.batch == record.batch else {}
            found.append(InboxState(record, new, store.uri_of(record.report)))
    return sorted(found, key=lambda inbox: inbox.batch.scored_at, reverse=True)


def parse_moment(text: str) -> datetime | None:
    """A moment in ISO 8601, in UTC where it names no zone; None for other texts."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
