"""What does each setting do? Trainings with several settings on the same subjects.

    python -m benchmarks.sweep --case "training.beta=1" --case "training.beta=0.1"

Each --case is a line of settings. The subjects are by default some that share no drawing with
those of `benchmarks.learning`, so that settings may be chosen here. A row of the table is a mean
over subjects and seeds: the mean label p; the margin m = β (Δ_ref - Δ_gen) over the last steps, as
many as lie between two validations; and the last step's judgement and that of the step which
validates best, as `benchmarks.learning` explains it. r is that step's validation reward.

Every (case, subject, seed) is written as soon as it is done; with --resume a rerun computes what
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
from benchmarks.world import WORLD, subject_table
from rpo.config import load_config
from rpo.errors import UserError

SUBJECTS = ("dog3", "duck_toy", "teapot")
COLUMNS = {"dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "harmonic_judge": "λ-harmonic"}


def check_names(arguments: argparse.Namespace) -> None:
    """Raises UserError for a subject that the world does not have."""
    unknown = set(arguments.names) - subject_table(arguments.world).keys()
    if unknown:
        raise UserError(f"--names: no subject {', '.join(sorted(unknown))} in {arguments.world}")


def run(arguments: argparse.Namespace) -> str:
    """The whole sweep; returns its table."""
    check_names(arguments)
    common = load_config("emojiland", None, arguments.set, prompts="emojiland")
    configs = {
        case: load_config("emojiland", None, [*arguments.set, *case.split()], prompts="emojiland")
        for case in arguments.case
    }
    world = World.load(arguments.world, common)
    results = opened(arguments, "sweep", common, 1)
    session = provenance(str(world.backbone.device))
    done = {(r["case"], r["subject"], r["seed"]) for r in results["records"]}
    start = time.perf_counter()
    for name in arguments.names:
        for seed in range(arguments.seeds):
            for case, config in configs.items():
                if (case, name, seed) in done:
                    continue
                for record, _ in Case(world, name, seed, common, 1).trained(config, "last", "best"):
                    results["records"].append({"case": case} | rounded(record))
                if session not in results["sessions"]:
                    results["sessions"].append(session)
                write_json(arguments.out, results)
                seconds = time.perf_counter() - start
                print(f"{seconds:7.0f} s  {name} seed {seed}  {case}", flush=True)
    text = render(results)
    write_text(arguments.out.with_suffix(".md"), text)
    return text


def render(results: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    records = results["records"]
    names = list(dict.fromkeys(record["subject"] for record in records))
    seeds = sorted({record["seed"] for record in records})
    columns = ["settings", "p", "m", "r", "steps"]
    columns += [f"{title}, {when}" for when in ("last", "best") for title in COLUMNS.values()]
    lines = [
        "# What each setting does",
        "",
        f"Means over {', '.join(names)} and seeds {', '.join(map(str, seeds))}. How to read it: "
        "`python -m benchmarks.sweep --help`.",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join(['---'] * len(columns))} |",
    ]
    for case in dict.fromkeys(record["case"] for record in records):
        own = [record for record in records if record["case"] == case]
        last, best = ([r for r in own if r["method"] == m] for m in ("last", "best"))
        reward = statistics.fmean(max(r["validation_rewards"].values()) for r in best)
        cells = [
            f"`{case}`",
            _mean(best, "label_mean_probability", 2),
            _mean(best, "last_margin", 2),
            f"{reward:.3f}",
            ", ".join(str(record["step"]) for record in best),
            *(_mean(part, metric, 3) for part in (last, best) for metric in COLUMNS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    made = results["sessions"][-1]
    return "\n".join([*lines, "", f"Made at commit {made['commit']}: {machine_line(made)}.", ""])


def _mean(records: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    values = [record[key] for record in records if key in record]
    return f"{statistics.fmean(values):.{digits}f}" if values else "–"


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong arguments, else 0."""
    parser = make_parser("sweep", __doc__, "sweep.json")
    parser.add_argument("--case", action="append", required=True, help="settings, spaces between")
    parser.add_argument("--names", nargs="+", default=SUBJECTS, help="subjects")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each (1)")
    parser.add_argument("--resume", action="store_true", help="complete an existing result file")
    parser.add_argument("--world", type=Path, default=WORLD, help="another folder of models")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
