"""When something runs again and again: a cron line, a time of day or an interval, read in one time zone."""

import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
FORMS = "write an interval such as 10m (s, m, h, d), a time of day such as 02:00, or a cron line of five fields"
MONDAY = datetime(2024, 1, 1)  # intervals are counted from here: the same ones after each start, on the full hour
ZONE_FILES = (Path("/etc/localtime"), Path("/etc/timezone"))
LONGEST = timedelta(days=366)


def parse_interval(text: str) -> timedelta | None:
    """The interval that a text such as `10m` names, of at least a second; None for other texts.

    Raises:
        ValueError: the interval is zero, or longer than a year.
    """
    if (found := re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), re.ASCII)) is None:
        return None
    interval = timedelta(**{UNITS[found[2]]: int(found[1])})
    if not timedelta(0) < interval <= LONGEST:
        raise ValueError(f"{text!r} is no interval from 1s to 366d")
    return interval


def parse_cron(text: str) -> str | None:
    """The cron line of a text that is one, or a time of day (`02:00` is `0 2 * * *`); None for other texts."""
    if found := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip(), re.ASCII):
        return f"{int(found[2])} {int(found[1])} * * *"
    return " ".join(text.split()) if len(text.split()) == 5 else None


def check_timing(text: str) -> str:
    """The text, if it is one of the three forms. Raises: ValueError."""
    if parse_interval(text) is None and parse_cron(text) is None:
        raise ValueError(FORMS)
    return text


def check_zone(name: str) -> str:
    """The name, if it is that of a time zone. Raises: ValueError."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError("there is no such time zone; write an IANA name such as Europe/Berlin or UTC") from None
    return name


def find_local_zone() -> str:
    """The IANA name of this machine's time zone: $TZ, else /etc/localtime, else /etc/timezone, else UTC."""
    link, note = ZONE_FILES
    candidates = [os.environ.get("TZ", "").removeprefix(":"), os.path.realpath(link), _read_line(note)]
    for candidate in candidates:
        name = candidate.rpartition("zoneinfo/")[2] if os.path.isabs(candidate) else candidate
        try:
            if name:
                return check_zone(name)
        except ValueError:
            continue
    return "UTC"


def describe_moment(moment: datetime, now: datetime) -> str:
    """`02:00`, with the day where it is another one, and with seconds where they are not zero; in the zone of `now`."""
    local = moment.astimezone(now.tzinfo)
    day = "" if local.date() == now.date() else f"{describe_day(local)} "
    return day + f"{local:%H:%M:%S}".removesuffix(":00")


def describe_day(moment: datetime) -> str:
    """Such as `Fri 27 Nov`, in English whatever the machine speaks."""
    days, months = "Mon Tue Wed Thu Fri Sat Sun", "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
    return f"{days.split()[moment.weekday()]} {moment.day} {months.split()[moment.month - 1]}"


def _read_line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
