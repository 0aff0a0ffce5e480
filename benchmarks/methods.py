"""Every method on the same subjects: what it reaches, what it takes, how much of the model learns.

    python -m benchmarks.methods

Each method has the settings that suit it in the embedded world (`METHODS` of `rpo.config`). What is
judged is the step that the reward chooses on the validation prompts, as `rpo train` keeps it. The
subjects share no drawing with those of `benchmarks.learning`. The settings were chosen on them, so
this table shows that every method works, and not which is best. Judges as in `benchmarks.learning`.

Every (method, subject, seed) is written as soon as it is done; with --resume a rerun computes what
is missing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import finish, make_parser
from benchmarks.learning import Case, World, opened, rounded
from benchmarks.provenance import machine_line, provenance, write_json, write_text
from benchmarks.sweep import COLUMNS, SUBJECTS, check_names
from benchmarks.world import WORLD
from rpo.config import METHODS, load_config


def run(arguments: argparse.Namespace) -> str:
    """The whole table."""
    check_names(arguments)
    common = load_config("emojiland", None, arguments.set, prompts="emojiland")
    world = World.load(arguments.world, common)
    results = opened(arguments, "methods", common, 1)
    session = provenance(str(world.backbone.device))
    done = {(r["method"], r["subject"], r["seed"]) for r in results["records"]}
    start = time.perf_counter()
    for name in arguments.names:
        for seed in range(arguments.seeds):
            for method in ("base", *arguments.methods):
                if (method, name, seed) in done:
                    continue
                case = Case(world, name, seed, common, 1)
                if method == "base":
                    record, _ = case.base()
                else:
                    settings = [*arguments.set, f"method={method}"]
                    config = load_config("emojiland", None, settings, prompts="emojiland")
                    ((record, _),) = case.trained(config, None, method)
                results["records"].append(rounded(record))
                if session not in results["sessions"]:
                    results["sessions"].append(session)
                write_json(arguments.out, results)
                print(
                    f"{time.perf_counter() - start:7.0f} s  {name} seed {seed}  {method}",
                    flush=True,
                )
    text = render(results)
    write_text(arguments.out.with_suffix(".md"), text)
    return text


def render(results: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    records = results["records"]
    names = list(dict.fromkeys(record["subject"] for record in records))
    seeds = sorted({record["seed"] for record in records})
    columns = ["method", *COLUMNS.values(), "DINO of each", "steps", "CPU seconds", "trained"]
    lines = [
        "# Every method, on the development subjects",
        "",
        f"Means over {', '.join(names)} and seeds {', '.join(map(str, seeds))}, at the step that "
        "the reward chose; CPU seconds of drawing, training and validating, all threads together, "
        "which tell less of a machine's other work than its clock does. The settings were chosen "
        "on these subjects, so the table shows that each method works, and not which is best: "
        "`python -m benchmarks.methods --help`.",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join(['---'] * len(columns))} |",
    ]
    for method in ("base", *METHODS):
        own = [record for record in records if record["method"] == method]
        if not own:
            continue
        cells = [
            METHODS[method].title if method in METHODS else "base model",
            *(f"{statistics.fmean(r[metric] for r in own):.3f}" for metric in COLUMNS),
            ", ".join(f"{r['dino']:.2f}" for r in own),
            ", ".join(str(record["step"]) for record in own),
            f"{statistics.fmean(r.get('cpu_seconds_of_training', 0) for r in own):.0f}",
            f"{own[0].get('trained_parameters', 0):,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    made = [f"Made at commit {s['commit']}: {machine_line(s)}." for s in results["sessions"]]
    return "\n".join([*lines, "", *made, ""])


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong arguments, else 0."""
    parser = make_parser("methods", __doc__, "methods.json")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--names", nargs="+", default=SUBJECTS, help="subjects")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each (1)")
    parser.add_argument("--resume", action="store_true", help="complete an existing result file")
    parser.add_argument("--world", type=Path, default=WORLD, help="another folder of models")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
