"""One job from its order to its result: train, draw, judge, write, tidy up.

A job that was broken off goes on from its run folder's last/; one that had trained is judged anew.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.api import run_job
from rpo.bench.order import Order, tidy
from rpo.bench.records import PICTURES, Choice, JobResult, Judged, write_result
from rpo.config import Config, from_toml
from rpo.data.prompts import chosen_prompts
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn, draw_run, open_folder
from rpo.evaluation.dreambench import Reference, load_suite, numbered_prompts, reference
from rpo.evaluation.evaluate import LAMBDA
from rpo.events import Event, Progress
from rpo.replacing import remove, replacing
from rpo.runs.environment import commit, hardware, versions
from rpo.runs.folder import RunFolder, is_run
from rpo.runs.locking import LOCK, holder
from rpo.runs.pictures import save_png
from rpo.runs.result import Run
from rpo.runs.spec import JobSpec

if TYPE_CHECKING:
    from rpo.evaluation.scoring import Scorer
    from rpo.evaluation.untrained import Untrained

Tell = Callable[[Event], None]
"""Called with each event of a job. What it raises ends the job, which saves last/ first."""

ORPHANED = 30.0  # seconds for a worker whose runner is gone to notice it and let go of a run


def do_job(order: Order, tell: Tell) -> JobResult:
    """Does a job to its end and writes the result: "failed" for whatever goes wrong with it.

    Only what `tell` raises, if it is no Exception, comes through.
    """
    began, cpu = _now(), time.process_time()
    try:
        result = _done(order, tell)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        result = JobResult(order.job, "failed", " ".join(told.split()))
        if not isinstance(error, UserError):
            result = replace(result, provenance={"traceback": traceback.format_exc()})
    seconds = {**_seconds(order), **result.seconds}
    seconds |= {"total": sum(seconds.values()), "cpu": time.process_time() - cpu}
    provenance = {
        **result.provenance,
        **_provenance(order),
        "began": began,
        "ended": _now(),
    }
    result = replace(result, seconds=seconds, provenance=provenance)
    write_result(Path(order.results), result)
    if result.status == "done":
        tidy(order)
    return result


def _done(order: Order, tell: Tell) -> JobResult:
    config = from_toml(order.config, "job")
    result = JobResult(order.job, "done")
    if order.job.method:
        _train(order, config, tell)
        result = _told_by_run(order, result)
    if not order.job.choose:
        return result
    start = time.perf_counter()
    drawn = _draw(order, config, tell)
    scorer, references = _scorer(order, drawn)
    judged = []
    known: dict[int, tuple[Any, ...]] = {}  # a step that was chosen twice is the same pictures
    for choice, step, pictures in drawn:
        own = replace(pictures, subject=references[order.job.subject])
        if step not in known:
            known[step] = tuple(scorer.score(own))
        folder = _save_pictures(order, choice, pictures)
        title = dict(order.titles).get(choice, order.job.title)
        judged.append(Judged(choice, title, step, folder, known[step], _means(known[step])))
    side = references[order.job.subject].photos[0].width
    return replace(
        result,
        judged=tuple(judged),
        photos=scorer.score_photos(references[order.job.subject]),
        judges={name: dict(judge.about) for name, judge in scorer.judges.named()},
        protocol={
            "images_per_prompt": order.images_per_prompt,
            "photos": f"centre squares of {side} pixels by Lanczos",
            "prompt": "CLIP-T and λ-harmonic read the prompt without the identifier",
            "lambda": LAMBDA,
        },
        seconds={**result.seconds, "judging": time.perf_counter() - start},
    )


# --- training ----------------------------------------------------------------------------


def _train(order: Order, config: Config, tell: Tell) -> None:
    """Begins the run, or goes on with it. What `tell` raises saves last/."""
    path = order.run
    _take_over(path)
    if path.exists() and not is_run(path):
        remove(path)  # killed before it had said what it is
    with closing(run_job(JobSpec(Path(order.photos), config, path))) as events:
        for event in events:
            tell(event)


def _take_over(path: Path) -> None:
    """Frees a run of the lock of a lost worker: whoever gives orders has lost it, or is new.

    A worker on this machine that is still alive has lost its runner; it gets time to save.
    """
    late = time.monotonic() + ORPHANED
    while (owner := holder(path)) and time.monotonic() < late:
        if owner.host != socket.gethostname():
            with suppress(OSError):
                (path / LOCK).unlink()
            return
        if owner.pid == os.getpid():
            return
        time.sleep(0.2)


def _told_by_run(order: Order, result: JobResult) -> JobResult:
    """What the run folder says of the training."""
    from rpo.runs.checkpoint import count_weights

    run = Run(order.run)
    records = run.folder.records()
    every = run.config.validation.every
    steps = [record for record in records if record["event"] == "step"][-every:]
    figures: dict[str, float] = {}
    for record in records:
        if record["event"] == "labelled":
            figures |= {f"label_{key}": record[key] for key in ("mean_probability", "mean_gap")}
    ours = {"event", "run", "number", "time", "step"}
    for key in sorted({key for record in steps for key in record} - ours):
        values = [record[key] for record in steps if key in record]
        figures[f"last_{key}"] = sum(values) / len(values)
    curve = tuple(
        (float(v.step), v.reward, v.image_alignment, v.text_alignment) for v in run.history
    )
    last = run.path / "last" / "trainer.safetensors"
    return replace(
        result,
        steps=int(run.folder.summary()["step"]),
        trained_parameters=count_weights(last),
        curve=curve,
        figures=figures,
    )


def _seconds(order: Order) -> dict[str, float]:
    """By phase, over all sessions of the run."""
    found: dict[str, float] = {}
    if is_run(order.run):
        with suppress(UserError):
            for record in RunFolder(order.run).records():
                if record["event"] == "phase":
                    phase = record["phase"]
                    found[phase] = found.get(phase, 0.0) + record["seconds"]
    return found


# --- drawing and judging -----------------------------------------------------------------


def _draw(order: Order, config: Config, tell: Tell) -> list[tuple[Choice, int, Drawn]]:
    """The pictures of each judged step, and which step it is."""
    job = order.job
    prompts = numbered_prompts(chosen_prompts(config), job.kind)

    def tick(done: int, total: int) -> None:
        tell(Progress("judging", done, total))

    if order.images:
        return [("untrained", 0, _given(order))]
    if not job.method:
        from rpo.evaluation.untrained import draw_untrained

        model = replace(_untrained(order.settings, config.model, order.ip_adapter), config=config)
        subject, seen = _bare(order), bool(order.ip_adapter)
        if seen:
            photos = Subject.from_folder(order.photos, job.noun, job.kind)  # type: ignore[arg-type]
            subject = reference(job.subject, photos, model.backbone.resolution)
        count = order.images_per_prompt
        drawn = draw_untrained(model, subject, prompts, count, tick, with_photos=seen)
        return [("untrained", 0, drawn)]
    run, found = Run(order.run), []
    steps: dict[Choice, int] = {
        "best": run.best_step or 0,
        "last": int(run.folder.summary()["step"]),
    }
    known: dict[int, Drawn] = {}
    for choice in job.choose:
        step = steps[choice]
        if step not in known:
            shown = run.at_last() if choice == "last" else run
            known[step] = draw_run(shown, _bare(order), prompts, order.images_per_prompt, tick)
        found.append((choice, step, known[step]))
    return found


@lru_cache(1)
def _untrained(settings: tuple[str, ...], model: str, ip_adapter: str) -> Untrained:
    """A worker loads it once for all subjects and seeds."""
    from rpo.evaluation.untrained import open_untrained

    return open_untrained(model, settings, ip_adapter=ip_adapter or None)


def _bare(order: Order) -> Reference:
    """The subject without photos: until it is known at which size they are compared."""
    return Reference(order.job.subject, order.job.noun, order.job.kind, ())  # type: ignore[arg-type]


def _given(order: Order) -> Drawn:
    """A subject's pictures in the row's folder. UserError where there is none, or one is amiss."""
    suite = load_suite(order.gallery)
    entries = tuple(entry for entry in suite.entries if entry.name == order.job.subject)
    suite = replace(suite, entries=entries)
    found = open_folder(Path(order.images), suite, order.images_per_prompt)
    drawn = next(iter(found.read([_bare(order)], suite)))
    name = order.job.subject
    for text in found.amiss:
        if text.startswith((f"{name}/", f"{name}: pictures missing")):
            raise UserError(f"{order.images}: {text}; add or mend it")
    return drawn


def _scorer(
    order: Order, drawn: Sequence[tuple[Choice, int, Drawn]]
) -> tuple[Scorer, dict[str, Reference]]:
    side = min(drawn[0][2].images[0].size)
    scorer = _judging(order.judges, order.gallery, side)
    return scorer, {reference.name: reference for reference in scorer.gallery}


@lru_cache(1)
def _judging(judges: tuple[tuple[str, str], ...], gallery: str, side: int) -> Scorer:
    """Judges and gallery are loaded once by a worker, not once a job."""
    from rpo.evaluation.judges import load_judges
    from rpo.evaluation.scoring import Scorer

    named = dict(judges)
    head = Path(named["aesthetic"]) if named["aesthetic"] else None
    loaded = load_judges(named["dino"], named["clip"], head, named["aesthetic_clip"])
    return Scorer(loaded, load_suite(gallery).read(side), LAMBDA)


def _means(rows: Sequence[Any]) -> dict[str, float]:
    from rpo.evaluation.scoring import summarise

    return next(iter(summarise(rows)["subjects"].values()), {})


def _save_pictures(order: Order, choice: Choice, drawn: Drawn) -> str:
    """Small copies; returns their folder relative to the results, "" for none."""
    if not order.pictures:
        return ""
    job = order.job
    line = job.row if choice == "untrained" else f"{job.row}-{choice}"
    name = job.id.removeprefix(f"{job.row}.").removesuffix(f".{job.seed}")
    folder = Path(PICTURES, line, f"seed-{job.seed}", name)
    place = Path(order.results) / folder
    place.mkdir(parents=True, exist_ok=True)
    for prompt, number, image in zip(drawn.prompts, drawn.numbers, drawn.images, strict=True):
        small = image.copy()
        small.thumbnail((order.pictures, order.pictures))
        with replacing(place / f"{prompt.number:02d}-{number}.png") as temporary:
            save_png(small, temporary, {})
    return folder.as_posix()


# --- provenance --------------------------------------------------------------------------


def _provenance(order: Order) -> dict[str, Any]:
    return {
        **_machine(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "attempt": order.attempt,
        "fingerprint": order.fingerprint,
    }


@lru_cache(1)
def _machine() -> dict[str, Any]:
    return {
        "versions": versions(),
        "hardware": hardware(),
        "host": socket.gethostname(),
        "commit": commit(),
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
