"""What the page knows of a job by the events in its files."""

from __future__ import annotations

import json
from pathlib import Path

from app_home import write_events
from test_app_jobs import started

from rpo.app.jobs import Status
from rpo.app.pieces import curve, pairs, state_line
from rpo.app.watch import Course, Follower, Watch
from rpo.events import Interrupted, Notice, Progress, StepDone, Stopped, Validated


def validated(step: int, reward: float, improved: bool, time: float = 0.0) -> Validated:
    files = (f"images/validation/step-{step:05d}/01-x.png",)
    return Validated(step, reward, 0.5, 0.6, improved, None, ("a <dog>",), files=files, time=time)


def test_a_growing_file_is_read_once_and_by_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    follower = Follower(file)
    assert list(follower.events()) == []  # not there yet
    write_events(file, [StepDone(1, 0.5, 0.1), StepDone(2, 0.4, 0.1)])
    assert [event.step for event in follower.events()] == [1, 2]
    assert list(follower.events()) == []
    with file.open("a") as opened:
        opened.write('{"event": "step", "step": 3, "loss": 0.1,')
    assert list(follower.events()) == []  # half a line
    with file.open("a") as opened:
        opened.write(' "grad_norm": 1.0}\nno json\n[1]\n{"event": "of the future"}\n"text"\n')
    assert [event.step for event in follower.events()] == [3]
    assert not follower.anew
    file.unlink()
    write_events(file, [StepDone(2, 0.4, 0.1)])  # as a resumed run cuts it back
    assert [event.step for event in follower.events()] == [2]
    assert follower.anew


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    write_events(tmp_path / "elsewhere", [StepDone(1, 0.5, 0.1)])
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    assert list(Follower(tmp_path / "metrics.jsonl").events()) == []


def test_time_left_is_by_the_mean_pace(tmp_path: Path) -> None:
    course = Course()
    assert course.seconds_left(1000) is None
    course.take(started(tmp_path))
    course.take(Progress("sampling", 0, 32, time=100))
    assert course.seconds_left(100) is None  # nothing is done yet
    course.take(Progress("sampling", 8, 32, time=120))
    # 8 of 32 in 20 s: 24 more take 60 s; 5 s of them have gone by
    assert course.seconds_left(125) == 55
    course.take(StepDone(1, 0.5, 0.1, time=200))
    assert (course.phase, course.done, course.total) == ("training", 1, 8)
    course.take(StepDone(3, 0.5, 0.1, time=210))
    # from the end of step 0 at 200 on: 3 steps in 10 s, so 5 more take 50 / 3 s
    assert course.seconds_left(210) == 50 / 3


def test_a_resumed_run_is_timed_by_this_session(tmp_path: Path) -> None:
    course = Course()
    course.take(started(tmp_path, resumed_at=4))
    course.take(StepDone(5, 0.5, 0.1, time=100))
    course.take(StepDone(6, 0.5, 0.1, time=110))
    assert course.began == (100, 4)
    assert course.seconds_left(110) == 10  # steps 5 and 6 in 10 s, 7 and 8 are left


def test_the_best_step_so_far_is_the_chosen_one(tmp_path: Path) -> None:
    course = Course()
    course.take(started(tmp_path))
    for step, reward, improved in ((0, 0.5, True), (2, 0.7, True), (4, 0.6, False)):
        course.take(validated(step, reward, improved))
    assert course.chosen == 2
    assert [(p.step, p.chosen) for p in course.history] == [(0, False), (2, True), (4, False)]
    assert "step 2, chosen" in curve(course)
    shown = pairs("dog-1", course)
    assert "/rpo/pictures/dog-1/validation/step-00000/01-x.png" in shown
    assert "step-00002" in shown
    assert "step-00004" not in shown
    assert "a &lt;dog&gt;" in shown
    assert "<dog>" not in shown
    course.take(Interrupted(4))
    assert pairs("dog-1", course) == shown  # also when it is over


def test_what_the_process_says_besides_is_merged_with_what_is_kept(tmp_path: Path) -> None:
    kept, said = tmp_path / "metrics.jsonl", tmp_path / "dog-1.events"
    watch = Watch(tmp_path, said)
    write_events(said, [started(tmp_path), Progress("sampling", 3, 32, time=5)])
    course = watch.course()
    assert (course.phase, course.done, course.total) == ("sampling", 3, 32)
    write_events(kept, [validated(0, 0.5, True, time=6)])
    write_events(said, [validated(0, 0.5, True, time=6), StepDone(1, 0.5, 0.1, time=7)])
    course = watch.course()
    assert (course.phase, course.step, course.chosen) == ("training", 1, 0)


def test_a_run_of_elsewhere_is_watched_by_what_it_keeps(tmp_path: Path) -> None:
    watch = Watch(tmp_path, tmp_path / "nothing.events")
    write_events(
        tmp_path / "metrics.jsonl",
        [
            started(tmp_path),
            Notice("a large picture"),
            Notice("a large picture"),
            validated(0, 0.5, True),
            StepDone(1, 0.4, 0.1, time=3),
        ],
    )
    course = watch.course()
    assert (course.phase, course.step, course.steps) == ("training", 1, 8)
    assert course.notices == ["a large picture"]


def test_a_run_that_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    file, watch = tmp_path / "metrics.jsonl", Watch(tmp_path, tmp_path / "no.events")
    write_events(file, [started(tmp_path), validated(0, 0.5, True), validated(2, 0.9, True)])
    assert watch.course().chosen == 2
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    file.write_text("".join(lines[:2]))
    assert watch.course().chosen == 0


def test_the_words_of_each_state(tmp_path: Path) -> None:
    course = Course()
    course.take(started(tmp_path))
    course.take(validated(0, 0.5, True))
    course.take(validated(4, 0.7, True))
    assert "Waiting" in state_line(Status("x", "waiting"), course, 0)
    assert "can go on" in state_line(Status("x", "stopped"), course, 0)
    done = state_line(Status("x", "finished"), course, 0)
    assert "best after 4 steps" in done
    course.take(Stopped(4, 4, "patience"))
    assert "stopped early" in state_line(Status("x", "finished"), course, 0)
    failed = state_line(Status("x", "failed", "no <space>"), course, 0)
    assert 'role="alert"' in failed
    assert "no &lt;space&gt;" in failed
    unhelped = Course()
    unhelped.take(validated(0, 0.5, True))
    assert "no step was better" in state_line(Status("x", "finished"), unhelped, 0)


def test_the_end_of_a_session_stops_the_clock(tmp_path: Path) -> None:
    course = Course()
    course.take(started(tmp_path))
    course.take(StepDone(2, 0.5, 0.1, time=10))
    course.take(StepDone(3, 0.5, 0.1, time=20))
    assert course.seconds_left(20) is not None
    course.take(Interrupted(3, time=21))
    assert course.seconds_left(21) is None


def test_records_of_an_older_version_are_read(tmp_path: Path) -> None:
    record = {"event": "step", "step": 2, "loss": 0.5, "grad_norm": 1.0, "similarity": 0.1}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert Watch(tmp_path, tmp_path / "no").course().step == 2
