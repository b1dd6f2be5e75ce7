"""Which files of a source are left out because of their names (hidden, system, unfinished, sidecars, videos)."""

import re
from collections.abc import Sequence
from functools import lru_cache

from tasks.files.glob_patterns import compile_patterns
from tasks.files.paths import show_path

# What cameras, phones, photo programs, Google Takeout and people put beside pictures, by the ending of the name alone.
PROGRAMS = "aae acr arp cop cos cot dop dr4 exif lrcat lrprev lrtemplate nksc on1 pp3 spd vrd xmp"
CAMERAS = (
    "bdm cpi ctg gpx kml kmz nmea srt thm vtt aac aif aiff amr flac m4a mp3 oga ogg opus wav wma"  # spoken notes too
)
LISTS = (
    "bib cache cfg conf csv db geojson info ini ipynb json jsonl lst md5 names pickle pkl py sfv sha1 sha256 toml tsv"
)
TEXTS = "bak doc docx htm html lnk log md ods odt rst rtf txt url webloc wpl xls xlsx xml yaml yml"
MOVIES = "360 3g2 3gp asf avi divx dv f4v flv insv lrv m2ts m2v m4v mkv modd moff mov mp mp4 mpe mpeg mpg mts mxf"
MOVIES += " ogm ogv qt rm rmvb tod vob webm wmv"
EXCLUDED = "excluded"  # the rule of files that patterns of the settings leave out

UNFINISHED = dict.fromkeys(("tmp", "part", "partial", "crdownload"), "unfinished")
FILE_ENDINGS = UNFINISHED | dict.fromkeys(f"{PROGRAMS} {CAMERAS} {LISTS} {TEXTS}".split(), "sidecar")
FILE_ENDINGS |= dict.fromkeys(MOVIES.split(), "video")
# What operating systems, file managers and half-finished transfers leave in folders; everything else is looked at. The
# hidden file that stands for one which iCloud keeps elsewhere is looked at too: an image is missing, which is reported.
BEGINNING = re.compile(
    r"(?P<hidden>\.(?!.+\.icloud\Z))|(?P<unfinished>~\$)|(?P<system>(?:thumbs\.db|desktop\.ini|__macosx|@eadir|icon\r"
    r"|\$recycle\.bin|system volume information)\Z)",
    re.DOTALL,
)


def classify_paths(paths: Sequence[str], exclude: Sequence[str] = ()) -> tuple[list[str | None], list[str | None]]:
    """(the label of each path: its top folder, None at the top level; the rule that leaves it out, None for most).

    `exclude` are patterns of `SourceSpec`: what the owner says comes before what names say.
    """
    labels, rules = [], []
    for path in paths:
        start = path.rfind("/") + 1
        label, rule = classify_folder(path[:start])
        labels.append(label)
        rules.append(rule or find_file_rule(path[start:]))
    if exclude:
        meets = compile_patterns(tuple(exclude)).fullmatch
        rules = [EXCLUDED if meets(path) else rule for path, rule in zip(paths, rules, strict=True)]
    return labels, rules


@lru_cache(maxsize=4096)
def classify_folder(folder: str) -> tuple[str | None, str | None]:
    """The label, and the rule for whatever lies there, of a folder that ends in "/"; "" is the top level."""
    names = folder.split("/")[:-1]
    label = show_path(names[0])[0] if names and names[0] else None  # a key of S3 may begin with "/"
    return label, next(filter(None, map(find_folder_rule, names)), None)


def find_folder_rule(name: str) -> str | None:
    """`hidden`, `system`, `unfinished`, or None for the name of a folder that is looked into."""
    lowered = name.lower()
    if found := BEGINNING.match(lowered):
        return found.lastgroup
    return UNFINISHED.get(lowered.rpartition(".")[2]) if "." in lowered else None


def find_file_rule(name: str) -> str | None:
    """The same for the name of a file; `sidecar` or `video` for what lies beside pictures and is none."""
    lowered = name.lower()
    if found := BEGINNING.match(lowered):
        return found.lastgroup
    return FILE_ENDINGS.get(lowered.rpartition(".")[2]) if "." in lowered else None
