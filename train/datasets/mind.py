"""MIND, Microsoft News: impressions of news, clicked or not; an item's text is its title.

Files: `news.tsv` and `behaviors.tsv` of the training set, in the folder itself, in `train/`, in
`MINDsmall_train/` or `MINDlarge_train/`, or in the official zip. An impression's candidates are its user's
rows. The history is the one that the user's first impression comes with (MIND repeats it in all of them):
clicks from before the observed week. For next-item prediction the clicked candidates follow it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from rbserve.core.errors import DataError
from rbserve.train.datasets.delimited import PLAIN_TABS, csv_records
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, locate
from rbserve.train.datasets.source import DataSource
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.sampling import GIVEN

NEWS = ("news", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
BEHAVIOURS = ("impression", "user", "time", "history", "shown")
FOLDERS = ("", "train/", "MINDsmall_train/", "MINDlarge_train/")
TIME = "try_strptime(\"time\", '%m/%d/%Y %I:%M:%S %p')"


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads news, impressions and given histories into the workspace."""
    del reading
    folder = _unpack(raw, work.folder)
    news, behaviours = (
        locate(folder, *(f"{place}{name}" for place in FOLDERS)) for name in ("news.tsv", "behaviors.tsv")
    )
    records = csv_records(news, ("news", "title"), work.tally, PLAIN_TABS, NEWS)
    work.add_items(items(records, work.tally))
    rows = work.delimited(behaviours, ("user", "time", "history", "shown"), PLAIN_TABS, BEHAVIOURS)
    table = work.table(
        "behaviours", f"select * replace (epoch({TIME})::bigint as time) from ({rows})", behaviours
    )
    work.add_events(
        f"""select ok, "user", time, regexp_extract(one, '^(.*)-([01])$', 1) as news,
                   regexp_extract(one, '^(.*)-([01])$', 2) as clicked
            from (select ok, "user", time, unnest(if(ok, string_split_regex(trim(shown), ' +'), [''])) as one
                  from {table})""",
        behaviours,
        user='"user"',
        item="news",
        label="try_cast(clicked as tinyint)",
        time="time",
    )
    work.add_events(
        f"""select true as ok, "user", time - len(history) + place as time, history[place] as news
            from (select "user", time, history, unnest(range(1, len(history) + 1)) as place
                  from (select "user", min(time) as time,
                               string_split_regex(arg_min(trim(history), (time, history)), ' +') as history
                        from {table} where ok and trim(history) <> '' group by "user"))""",
        behaviours,
        user='"user"',
        item="news",
        label=str(GIVEN),
        time="time - 1",
    )


def _unpack(raw: Path, temporary: Path) -> Path:
    """The folder, or one into which the files of its training zip were unpacked."""
    archives = sorted(raw.glob("MIND*_train.zip")) if raw.is_dir() else [raw] if raw.suffix == ".zip" else []
    if not archives or any((raw / place / "behaviors.tsv").exists() for place in FOLDERS):
        return raw
    target = temporary / "unpacked"
    try:
        with zipfile.ZipFile(archives[0]) as archive:
            for name in ("news.tsv", "behaviors.tsv"):
                inside = [member for member in archive.namelist() if Path(member).name == name]
                if not inside:
                    raise DataError(f"{archives[0]} holds no {name}", "it must be MIND's training zip")
                archive.getinfo(inside[0]).filename = name
                archive.extract(inside[0], target)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archives[0]} is no readable zip: {error}", "fetch it again") from None
    return target


SOURCE = DataSource(
    about="MIND: clicks on titled news, with impressions",
    load=load,
    needs="MINDsmall_train.zip (or large), or its news.tsv and behaviors.tsv",
    defaults={"given_history": True, "min_history": 1},
    paper="MIND",
)
