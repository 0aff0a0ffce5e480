"""The paper's claims, each beside what was measured, with a verdict that its interval gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rpo.bench.report.measured import (
    LEAST_SUBJECTS,
    Estimate,
    Group,
    Measured,
    difference,
    shared_places,
    tells_apart,
)
from rpo.bench.report.paper import (
    FIGURES,
    HEADLINE_LAMBDA,
    Belongs,
    find_headline,
    has_headline_lambda,
    is_rpo,
    objective,
)
from rpo.bench.report.published import LAMBDA_FIGURES, METHOD_FIGURES
from rpo.evaluation.metrics import METRICS
from rpo.evaluation.statistics import Interval
from rpo.report.page import duration
from rpo.report.tables import cell_text

DECIDING = "harmonic"  # the figure that a verdict is by: named before anything was measured
FEW = 10  # subjects, below which bootstrap intervals are too narrow

Verdict = Literal["supported", "not told apart", "contradicted", "too few subjects", "not measured"]


@dataclass(frozen=True)
class Claim:
    """That RPO beats what one of its parts is taken from, or another method.

    says: what the paper says. other: the line that RPO is compared with. needs: what a suite lacks
    where there is none.
    """

    name: str
    title: str
    says: str
    other: Belongs
    needs: str


CLAIMS = (
    Claim(
        "early-stopping",
        "Choosing the step by the λ-harmonic reward beats training to the end",
        "models overfit early, and the step of the highest validation reward keeps the pictures "
        "faithful to their prompts (Table 2)",
        lambda line: is_rpo(line, "last"),
        'RPO with choose = ["best", "last"]',
    ),
    Claim(
        "preference-loss",
        "The preference loss adds to early stopping",
        "L_pref holds the similarity loss back from overfitting, beyond what choosing the step "
        "does (Table 2)",
        lambda line: objective(line) == "similarity" and line.choose == "best",
        'similarity with choose = ["best"]',
    ),
    Claim(
        "harmonic-mean",
        "The harmonic mean beats the arithmetic one",
        "an arithmetic mean of the two alignments forgives that one of them is low (Table 6)",
        lambda line: is_rpo(line, mean="arithmetic") and has_headline_lambda(line),
        "RPO with reward.mean = arithmetic",
    ),
    Claim(
        "dreambooth",
        "RPO beats DreamBooth, with a few drawn pictures instead of a thousand",
        "with 32 pictures drawn by the base model, 3 % of DreamBooth's about 1000, DINO, CLIP-I "
        f"and CLIP-T are {LAMBDA_FIGURES[HEADLINE_LAMBDA]}, beside DreamBooth's published "
        f"{METHOD_FIGURES['dreambooth']} (Table 1)",
        lambda line: line.method == "dreambooth",
        "the method dreambooth",
    ),
)


@dataclass(frozen=True)
class Finding:
    """A claim as it came out: first - second in every figure, and the verdict."""

    claim: Claim
    verdict: Verdict
    first: Measured | None = None
    second: Measured | None = None
    differences: dict[str, Estimate] | None = None

    @property
    def measured(self) -> str:
        """What was measured, in sentences."""
        if self.first is None or self.second is None or self.differences is None:
            return f"Not measured: it needs {self.claim.needs} on the same subjects."
        places = shared_places([self.first, self.second])
        count = len({subject for subject, _ in places})
        seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in places}))
        told = {
            name: f"{METRICS[name].title} {cell_text(self.differences[name], '+.3f')}"
            for name in FIGURES
        }
        subjects = "subject" if count == 1 else "subjects"
        text = (
            f"{self.first.title} less {self.second.title}, {count} {subjects}, seeds {seeds}: "
            f"{told.pop(DECIDING)}. Besides: {', '.join(told.values())}. "
        )
        if 1 < count < FEW:
            text += f"Of only {count} subjects the intervals are too narrow. "
        return text + " ".join(_costs(self.first, self.second))


def verdict_of(difference: Estimate) -> Verdict:
    """What a difference's interval says of the claim that it is above 0."""
    if difference is None:
        return "not measured"
    if not isinstance(difference, Interval) or difference.n < LEAST_SUBJECTS:
        return "too few subjects"
    if not tells_apart(difference):
        return "not told apart"
    return "supported" if difference.low > 0 else "contradicted"


def findings(group: Group) -> list[Finding]:
    """Every claim, in the paper's order, for the lines of one group."""
    headline = find_headline(group.lines.values())
    return [_finding(claim, headline, list(group.lines.values())) for claim in CLAIMS]


def _finding(claim: Claim, headline: Measured | None, lines: Sequence[Measured]) -> Finding:
    if headline is None:
        return Finding(claim, "not measured")
    own = [line for line in lines if claim.other(line) and shared_places([headline, line])]
    # of several the one that differs least from RPO's own settings
    other = min(own, key=lambda line: _distance(headline, line), default=None)
    if other is None:
        return Finding(claim, "not measured")
    found = {name: difference(headline, other, name) for name in FIGURES}
    return Finding(claim, verdict_of(found[DECIDING]), headline, other, found)


def _distance(first: Measured, second: Measured) -> int:
    """In how many settings two lines differ."""
    names = first.settings.keys() | second.settings.keys()
    return sum(first.setting(name) != second.setting(name) for name in names)


def _costs(first: Measured, second: Measured) -> Iterator[str]:
    """What a job of each took in the mean, where they are different trainings."""
    places = shared_places([first, second])
    times = [
        [line.cells[place].seconds for place in places if line.cells[place].seconds]
        for line in (first, second)
    ]
    if first.key.partition(":")[0] != second.key.partition(":")[0] and all(times):
        mean = [duration(sum(own) / len(own)) for own in times]
        yield f"A whole job took {mean[0]} and {mean[1]} in the mean."
