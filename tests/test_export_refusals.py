"""What an export refuses: it writes nothing then, and overwrites nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exporting import Trained, copied, full_run, metadata
from jobs import contents
from safetensors.torch import load_file, save_file
from tiny import save_tiny

from rpo.errors import UserError
from rpo.exports.export import export
from rpo.exports.lora_names import ADAPTER_FILE
from rpo.runs.folder import BEST_CARD
from rpo.runs.result import Run


def _spoil_base(run: Run) -> None:
    save_tiny(Path(run.config.model), "epsilon", seed=3)


def _overflow(run: Run) -> None:
    tensors = {key: tensor * 1e6 for key, tensor in load_file(run.best / ADAPTER_FILE).items()}
    save_file(tensors, run.best / ADAPTER_FILE, metadata=metadata(run.best / ADAPTER_FILE))


def _drop_half(run: Run) -> None:
    kept = {k: v for k, v in load_file(run.best / ADAPTER_FILE).items() if "up" not in k}
    save_file(kept, run.best / ADAPTER_FILE)


ADAPTER_REFUSALS: dict[str, tuple[dict[str, Any], str, Callable[[Run], None] | None]] = {
    "format": ({"to": "ckpt"}, "--to ckpt: must be one of diffusers, lora", None),
    "dtype": ({"dtype": "int8"}, "--dtype int8: must be one of fp32", None),
    "a file name": ({"out": "x.safetensors"}, "name a folder; the file and its README", None),
    "no user": ({"out": "~nobody-of-that-name/x"}, "there is no such user", None),
    "existing": ({"out": "there"}, "exists already; name a folder that does not", None),
    "another base": ({}, "is not the file that", _spoil_base),
    "overflow": ({"dtype": "fp16"}, "not finite in fp16; use --dtype bf16", _overflow),
    "damaged": ({}, "is no complete LoRA", _drop_half),
    "cut off": (
        {},
        "cannot be read",
        lambda run: (run.best / ADAPTER_FILE).write_bytes(b"12") and None,
    ),
    "no best": ({}, "has no best/ yet", lambda run: (run.best / BEST_CARD).unlink()),
}


@pytest.mark.parametrize("case", ADAPTER_REFUSALS)
def test_refusals_write_nothing(
    adapter: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copied(adapter(), tmp_path)
    (tmp_path / "there").mkdir()
    given, words, spoil = ADAPTER_REFUSALS[case]
    if spoil:
        spoil(run)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        export(run, **{"to": "kohya", **given})
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob(".kohya.*"))


@pytest.mark.parametrize("to", ["lora", "kohya", "comfyui"])
def test_a_full_run_has_no_adapter(tmp_path: Path, to: str) -> None:
    run = full_run(tmp_path)
    with pytest.raises(UserError, match="trained the whole denoiser.*use --to diffusers"):
        export(run, to)
    assert not (run.path / "export").exists()


def test_nothing_is_overwritten(adapter: Callable[..., Trained], tmp_path: Path) -> None:
    run = copied(adapter(), tmp_path)
    folder = export(run, "lora")
    before = contents(folder)
    with pytest.raises(UserError, match="exists already; name a folder"):
        export(run, "lora", dtype="fp16")
    assert contents(folder) == before
