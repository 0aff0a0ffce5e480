"""tables.py: one table as Markdown, CSV and HTML, whatever its words are."""

from __future__ import annotations

import csv
import io

from rpo.evaluation.statistics import Interval
from rpo.report.tables import Column, Row, Table, cell_text, to_csv, to_html, to_markdown

TABLE = Table(
    "t",
    "A *title*",
    "An intro.",
    (Column("method", "text"), Column("DINO ↑"), Column("there", "text", published=True)),
    (
        Row(("a|b [x](http://y) <b>", Interval(0.5, 0.25, 0.75, 4), ".6, SD"), frozenset({1})),
        Row(("=1+1\x1b", None, None), chosen=True),
    ),
    about=(("backbone", "<i>"), ("n", "4 subjects")),
    notes=("one failed & is told",),
)


def test_cells() -> None:
    assert cell_text(Interval(-0.0604, -0.12345, 0.0002, 3), "+.3f") == "−0.060 [−0.123, 0.000]"
    assert cell_text(-0.0001, ".3f") == "0.000"
    assert cell_text(0.1, ".1f") == "0.1"
    assert cell_text(None, ".3f") == "–"
    assert cell_text(12, ".3f") == "12"


def test_markdown() -> None:
    assert to_markdown(TABLE) == (
        "## A \\*title\\*\n\nAn intro.\n\n"
        "| method | DINO ↑ | there (published, not measured here) |\n"
        "| --- | ---: | --- |\n"
        "| a\\|b [x\\](http://y) \\<b\\> | **0.500 [0.250, 0.750]** | .6, SD |\n"
        "| =1+1\\\\x1b | – | – |\n"
        "\n- one failed \\& is told\n"
        "\n- backbone: \\<i\\>\n- n: 4 subjects\n"
    )


def test_csv_has_a_column_for_each_number() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows == [
        [
            "method",
            "DINO ↑",
            "DINO ↑, low",
            "DINO ↑, high",
            "DINO ↑, n",
            "there (published, not measured here)",
        ],
        ["a|b [x](http://y) <b>", "0.500000", "0.250000", "0.750000", "4", ".6, SD"],
        ["'=1+1\\x1b", "", "", "", "", ""],
    ]


def test_html_escapes_and_marks() -> None:
    html = to_html(TABLE)
    assert "a|b [x](http://y) &lt;b&gt;" in html
    assert '<td class="n strong">0.500 <small>[0.250, 0.750]</small></td>' in html
    assert "<b>backbone</b> &lt;i&gt;" in html
    assert "<li>one failed &amp; is told</li>" in html
    assert '<tr class="pick"><td class="">=1+1\\x1b</td>' in html
    assert html.count("published, not measured here") == 1
