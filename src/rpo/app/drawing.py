"""Drawing for the page, in a process that keeps a run's model for some minutes.

The process reads wishes from stdin and answers on stdout, a JSON object a line; it ends with the
server, whose death closes its stdin. `python -m rpo.app.drawing` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rpo.errors import UserError, printable

IDLE = 300.0  # seconds after which the process, and the model's memory with it, is given back
FOLDER, BASE_FOLDER = "images/generated", "images/generated-base"


@dataclass(frozen=True)
class Wish:
    """What is to be drawn: n pictures of consecutive seeds by a run, and by its base model too."""

    run: str
    prompt: str
    n: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    base: bool = False


class Drawer:
    """The server's side: one process, started when something is to be drawn."""

    def __init__(self) -> None:
        self._turn, self._guard = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._used = 0.0

    def draw(self, wish: Wish) -> Iterator[tuple[int, int]]:
        """Draws, one wish at a time, and tells (done, total) solver steps on the way.

        The pictures are then in the run's folder. Raises UserError as `Run.generate` does.
        """
        with self._turn:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            answered = False
            try:
                process.stdin.write(json.dumps(asdict(wish)) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    answer = json.loads(line)
                    self._used = time.monotonic()
                    answered = "error" in answer or "files" in answer
                    if "error" in answer:
                        raise UserError(answer["error"])
                    if answered:
                        return
                    yield answer["done"], answer["total"]
            except (OSError, ValueError, KeyError):
                pass
            finally:
                if not answered:  # it died, or nobody waits for its answer any more
                    self.close()
            raise UserError("the drawing was broken off: perhaps there is too little memory")

    def _running(self) -> subprocess.Popen[str]:
        with self._guard:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "rpo.app.drawing"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    encoding="utf-8",
                )
            self._used = time.monotonic()
            return self._process

    def tick(self) -> None:
        """Gives the model back after a while without a wish."""
        if time.monotonic() - self._used > IDLE and self._turn.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._turn.release()

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._guard:
            process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def draw(wish: Wish, opened: dict[str, Any], on_step: Callable[[int, int], None]) -> list[Path]:
    """Draws and saves; `opened` keeps the run for the next time. Returns the files."""
    from rpo.api import load_run
    from rpo.runs.folder import BEST_CARD
    from rpo.runs.pictures import save_generated

    path = Path(wish.run)
    card = path / "best" / BEST_CARD
    key = (wish.run, card.stat().st_mtime_ns if card.is_file() else 0)
    if opened.get("key") != key:
        opened.clear()
        opened["run"], opened["key"] = load_run(path), key
    run = opened["run"]
    how = {"steps": wish.steps, "guidance_scale": wish.guidance}
    pictures = run.generate(wish.prompt, wish.n, wish.seed, on_step=on_step, **how)
    seeds = range(wish.seed, wish.seed + wish.n)
    texts = [run.settings(wish.prompt, seed, **how) for seed in seeds]
    if wish.base:
        drawn = run.draw([wish.prompt] * wish.n, seeds, base=True, on_step=on_step, **how)
        plain = [{**text, "training_step": 0} for text in texts]
        save_generated(drawn, path / BASE_FOLDER, wish.prompt, plain)
    return save_generated(pictures, path / FOLDER, wish.prompt, texts)


def main() -> None:
    """The process: a wish a line, until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # no library's line may come between ours

    def answer(values: Mapping[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    opened: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            wish = Wish(**json.loads(line))
            files = draw(wish, opened, lambda done, total: answer({"done": done, "total": total}))
            answer({"files": [str(file) for file in files]})
        except UserError as error:
            answer({"error": printable(str(error))})
        except Exception as error:
            opened.clear()  # whatever it holds may be broken, or too much
            answer({"error": printable(f"{type(error).__name__}: {' '.join(str(error).split())}")})


if __name__ == "__main__":
    main()
