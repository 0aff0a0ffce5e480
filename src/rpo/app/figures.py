"""The figures of `rpo bench` and `rpo evaluate` for the page, read in a process of its own.

They may be anybody's, and reading them loads PyTorch, which is not for the page's server.
`python -m rpo.app.figures FOLDER` prints them: tables of plain text as one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rpo.errors import UserError, printable
from rpo.report.tables import Table, cell_text


def read_figures(folder: Path) -> dict[str, Any]:
    """Title and tables of what was measured. Raises UserError for a damaged folder."""
    from rpo.bench.records import is_results
    from rpo.bench.report.write import read_reports
    from rpo.evaluation.file import read_evaluation
    from rpo.report.evaluated import evaluation_tables

    if not is_results(folder):
        tables = evaluation_tables(read_evaluation(folder))
        return {"title": folder.name, "tables": [_plain(table) for table in tables]}
    results, reports = read_reports(folder)
    title = results.suite.title if results.suite else folder.name
    tables = [table for report in reports for table in report.tables]
    tables.sort(key=lambda table: table.name == "claims")  # what they compare comes first
    return {"title": title, "tables": [_plain(table) for table in tables]}


def _plain(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "intro": table.intro,
        "head": [column.heading for column in table.columns],
        "numbers": [column.kind == "number" for column in table.columns],
        "rows": [
            [cell_text(value, c.form) for c, value in zip(table.columns, row.values, strict=True)]
            for row in table.rows
        ],
        "notes": list(table.notes),
        "about": [f"{what}: {which}" for what, which in table.about],
    }


def main() -> None:
    """The process: the folder's figures, or why there are none."""
    try:
        print(json.dumps(read_figures(Path(sys.argv[1]))))
    except UserError as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
