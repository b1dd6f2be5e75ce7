"""Errors of a run, and of one file, that Safelight knows: each is one line with the culprit and what to do.

A per-run fault is an exception below `SafelightError`; the command line prints it as one line and exits with 1.
A per-file fault is data: `BadImage` never leaves the function that handles the file, its reason goes to the ledger.
"""

# How a decoder ended that gave no answer: by itself, by the clock, by the kernel.
DECODER_DEATHS = ("decoder_crashed", "decoder_timeout", "out_of_memory")
# Reasons that lie with the machine and not with the file: the next run asks again.
TRANSIENT_REASONS = (*DECODER_DEATHS, "needs_heic")


def get_reason_code(reason: str) -> str:
    """The code of a reason as the ledger has it, without the detail."""
    return reason.partition(":")[0]


def is_decoder_death(reason: str | None) -> bool:
    """Whether this reason of the ledger says how a decoder ended that gave no answer."""
    return reason is not None and get_reason_code(reason) in DECODER_DEATHS


class SafelightError(Exception):
    """A known fault of a run; `str()` is one line that names the culprit and the way out."""


class ConfigError(SafelightError):
    """A setting that cannot be obeyed."""


class SourceError(SafelightError):
    """A source that cannot be listed, or that holds nothing to learn from."""


class StorageError(SafelightError):
    """A store that does not answer, refuses, or lacks what was asked for."""


class IntegrityError(SafelightError):
    """Bytes that are not what their checksum says."""


class DatasetError(SafelightError):
    """A dataset that does not exist or cannot be trained on."""


class BudgetError(SafelightError):
    """More bad files than the error budget allows."""


class TrainingError(SafelightError):
    """Training that went wrong: a loss that is no number, a process that died."""


class RegistryError(SafelightError):
    """A model or version that does not exist, or does not answer as it did when it was registered."""


class ServerError(SafelightError):
    """A server that cannot be started or reached."""


class InstallationError(SafelightError):
    """A helper process that cannot be started, or cannot do what it is for whatever it is given."""


class OutageError(SafelightError):
    """A server that does not answer, or is overloaded: the same run may succeed in a minute."""


class StorageOutageError(StorageError, OutageError):
    """A store that does not answer now."""


class SourceOutageError(SourceError, OutageError):
    """A source that does not answer now."""


class ServerOutageError(ServerError, OutageError):
    """A server that does not answer now, or work that lost its workers."""


class BadImage(Exception):
    """One file that gives no pixels: `reason` is a code for the ledger, `detail` a short text for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def is_transient(self) -> bool:
        """Whether it lies with the machine and not with the file, so that the next run has to try again."""
        return self.reason in TRANSIENT_REASONS

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
