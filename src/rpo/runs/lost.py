"""A best/ that was saved and is gone: what is missing, and whether it can be had again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpo.errors import UserError
from rpo.runs.folder import BEST_CARD, RunFolder


def lost_best(folder: RunFolder) -> str:
    """What of a best/ that was saved is gone or damaged; empty where nothing is."""
    best = folder.path / "best"
    try:
        card = folder.best_card()
        if card is not None:
            card["step"]  # raises if it is not there
    except UserError as error:
        return str(error).partition("; ")[0]
    if card is None:
        made = folder.summary().get("best_step") is not None
        return f"{best}: its {BEST_CARD} is gone" if made else ""
    gone = (name for name in card.get("files", ()) if not (best / name).is_file())
    return next((f"{best / name}: is gone" for name in gone), "")


def require_best(folder: RunFolder) -> None:
    """Raises UserError unless best/ is there, saying whether it can be had."""
    lost = lost_best(folder)
    if not lost and folder.best_card() is not None:
        return
    if not lost:
        raise UserError(f"{folder.path}: has no best/ yet; finish it with --resume")
    summary = folder.summary()
    if can_be_remade(summary):
        raise UserError(f"{lost}; --resume makes best/ again")
    raise UserError(f"{lost}; {cannot_be_remade(summary)}; start a new run")


def can_be_remade(summary: Mapping[str, Any]) -> bool:
    """Whether the weights of best/ are there besides: in last/, or as the base model's own.

    summary: last/state.json.
    """
    return summary.get("best_step") in (None, 0, summary.get("step"))


def cannot_be_remade(summary: Mapping[str, Any]) -> str:
    """What cannot be had again, and why."""
    return (
        f"the weights of step {summary.get('best_step')} cannot be had again, as last/ holds those "
        f"of step {summary.get('step')}"
    )


def plan_for_lost(folder: RunFolder, lost: str, complete: bool) -> str:
    """What resuming makes of a lost best/, in words. Raises UserError where it is nothing.

    complete: whether no training is left to do.
    """
    summary = folder.summary()
    if can_be_remade(summary) or not folder.has_last():
        return f"{lost}; best/ is made again"
    gone = cannot_be_remade(summary)
    if complete:
        raise UserError(f"{lost}; {gone}; start a new run")
    try:
        folder.best_card()
    except UserError as error:
        raise UserError(
            f"{lost}; {gone}; move best/ away to go on without it, or start a new run"
        ) from error
    return f"{lost}; {gone}; only a later step that is better makes a new best/"
