"""What decides a job, apart from its execution: it can be written down and run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpo.config import Config, from_toml, to_toml
from rpo.errors import UserError


@dataclass(frozen=True)
class JobSpec:
    """One run: its photos, its settings, its place.

    Attributes:
        photos: folder or zip of the photos; None where they are in memory only.
        config: complete, with the subject's noun and kind.
        path: the run folder; a run that is there already is continued.
        tensorboard: also log for TensorBoard.
    """

    photos: Path | None
    config: Config
    path: Path
    tensorboard: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values with absolute paths; `from_dict` takes them back."""
        return {
            "photos": None if self.photos is None else str(self.photos),
            "config": to_toml(self.config),
            "path": str(self.path.absolute()),
            "tensorboard": self.tensorboard,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JobSpec:
        """The inverse of `to_dict`. Raises UserError for anything else."""
        try:
            photos = values["photos"]
            return cls(
                None if photos is None else Path(photos),
                from_toml(values["config"], "job"),
                Path(values["path"]),
                bool(values["tensorboard"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"not a job: {error} is missing or wrong") from None
