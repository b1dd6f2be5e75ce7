"""Settings of notifications (`[notify]`), and the message that is sent."""

import shlex
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cnn.spec import Settings

NoticeKind = Literal["missing", "late", "failed", "crashed", "held", "review", "disk", "attention", "test"]


class NotifySpec(Settings):
    """Whom `safelight serve`, `safelight status --notify` and `safelight notify` tell of nights that went wrong."""

    command: str | None = Field(
        None,
        examples=["mail -s safelight me@example.org"],
        description="program that is started for each message, on this machine and without a shell; it gets the message"
        " on its standard input and in SAFELIGHT_MESSAGE, its kind and model in SAFELIGHT_KIND and SAFELIGHT_MODEL",
    )
    webhook: str | None = Field(
        None,
        examples=["https://hooks.example.org/services/KEY"],
        description="http(s) address that each message is sent to as JSON (`text`, `kind`, `model`), as Slack and"
        " Mattermost take it",
    )
    review_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="share of a batch's new images that are for review above which it is told; from 20 new images on",
    )

    @property
    def is_set(self) -> bool:
        """Whether anybody is told."""
        return self.command is not None or self.webhook is not None

    @field_validator("command")
    @classmethod
    def _check_command(cls, text: str | None) -> str | None:
        if text is not None and not split_words(text):
            raise ValueError("name a program, and what it is to be given")
        return text

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, address: str | None) -> str | None:
        if address is not None and (urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc):
            raise ValueError("write an address that begins with https:// or http://")
        return address


@dataclass(frozen=True)
class Notice:
    """A message: one sentence, what it is about, and which model (its name; "" for the whole machine)."""

    kind: NoticeKind
    model: str
    text: str


def split_words(command: str) -> list[str]:
    """The words of a command line. Raises: ValueError, a quotation mark is not closed."""
    return shlex.split(command)
