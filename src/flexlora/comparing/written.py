"""table.csv, table.parquet, table.md and arms.svg, made anew from what a folder holds finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from flexlora.comparing.findings import Findings
from flexlora.comparing.markdown import markdown
from flexlora.comparing.section import section
from flexlora.comparing.sentences import primary, standing
from flexlora.comparing.table import COLUMNS, Row
from flexlora.errors import ConfigError
from flexlora.extras import require_extras
from flexlora.formats.atomic import atomic_file, atomic_write

CSV, PARQUET, MARKDOWN = "table.csv", "table.parquet", "table.md"
PICTURE = "arms.svg"


@dataclass(frozen=True)
class Written:
    """files: those that were written; told: what a reader is to know first, in sentences."""

    findings: Findings
    files: tuple[Path, ...]
    told: tuple[str, ...]


def write_tables(out: Path) -> Written:
    """Of what is finished by now; the rest may run meanwhile.

    Parquet needs the extra flexlora[parquet], the picture flexlora[report]; without them the others
    are written, and told says so. Raises RunError for a folder that holds no comparison, or a cell
    with damaged files.
    """
    findings = Findings.of(out)
    told = [primary(findings), *standing(findings)]
    atomic_write(out / CSV, csv_text(findings.tidy.rows))
    title = f"Comparison {findings.name}"
    atomic_write(out / MARKDOWN, markdown(section(findings), title))
    for name, write, instead in (
        (PARQUET, partial(write_parquet, findings.tidy.rows), f"{CSV} holds the same."),
        (PICTURE, partial(draw, findings), f"{MARKDOWN} holds its numbers."),
    ):
        try:
            write(out / name)
        except ConfigError as error:
            (out / name).unlink(missing_ok=True)  # One of before would not hold the same.
            told.append(f"{error}; {instead}")
    made = (out / name for name in (CSV, MARKDOWN, PARQUET, PICTURE))
    return Written(findings, tuple(path for path in made if path.exists()), tuple(told))


def draw(findings: Findings, path: Path) -> None:
    """The arms with their intervals, as SVG; no file where nothing is finished.

    Raises ConfigError where the extra flexlora[report] is not installed.
    """
    require_extras([(f"{path.name} is asked for", "report")])
    from flexlora.comparing.figures import by_arm
    from flexlora.report.drawn import drawn

    figure = by_arm(findings)
    if figure is None:
        path.unlink(missing_ok=True)
    else:
        atomic_write(path, drawn(figure.spec))


def csv_text(rows: Iterable[Row]) -> str:
    """A header, then a line a row; what is no number is empty. Floats read back equal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = astuple(row)
        writer.writerow("" if x != x else repr(x) if isinstance(x, float) else x for x in cells)
    return text.getvalue()


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """The same, with the columns' types. Raises ConfigError where pyarrow is not installed."""
    require_extras([(f"{path.name} is asked for", "parquet")])
    import pyarrow
    import pyarrow.parquet

    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    kinds["bool"] = pyarrow.bool_()
    schema = pyarrow.schema([(name, kinds[Row.__annotations__[name]]) for name in COLUMNS])
    columns = list(zip(*map(astuple, rows), strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)
    ]
    with atomic_file(path) as aside:
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), aside)
