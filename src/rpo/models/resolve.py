"""Where a model's name leads: the embedded emojiland, a folder, a file, or the hub's local cache.

Nothing is downloaded here. A hub model that is not on this machine is an error that says which
command fetches it, so that a run never starts a transfer of gigabytes unasked.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import Any, Literal, get_args

from rpo.about import ASSETS
from rpo.config.presets import Presets, presets_with
from rpo.errors import UserError
from rpo.models import single_file
from rpo.models.families import FAMILIES
from rpo.models.single_file import Checkpoint
from rpo.reading import every, misfit

Kind = Literal["pipeline", "reward", "judge-clip", "judge-dino", "decoder"]

EMBEDDED = "emojiland"
# Where a node of a cluster keeps models that came from another: folders by name and kind.
PLACES: dict[tuple[str, Kind], Path] = {}
_NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
_WHAT = {"pipeline": "diffusers pipeline", "decoder": "tiny autoencoder of diffusers"}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# What an encoder of the hub is used for, by the model_type of its config.json.
_ENCODER_KINDS: dict[str, Kind] = {
    "align": "reward",
    "clip": "judge-clip",
    "dinov2": "judge-dino",
    "vit": "judge-dino",
}


@dataclass(frozen=True)
class InstalledModel:
    """A model that works without the network: the `name` to pass, its `path`, `size` in bytes."""

    name: str
    kind: Kind
    path: Path
    size: int


def default_reward(model: str) -> str:
    """The reward model that suits a base model; the paper's is ALIGN."""
    return EMBEDDED if model == EMBEDDED else "kakaobrain/align-base"


def known_presets() -> Presets:
    """The presets of `rpo.config` and of the model families."""
    families = {k: preset for f in FAMILIES.values() for k, preset in f.presets.items()}
    return presets_with(families, base_preset)


def base_preset(name: str) -> str:
    """The name of the preset whose guidance and steps are customary for a model.

    "paper" for a model that is not here or cannot be read: resolving it will say so.
    """
    if name == EMBEDDED:
        return EMBEDDED
    path = Path(expanduser(name))
    try:
        folder: Path | None = path
        if path.is_file():
            checkpoint = single_file.recognise(path)
            if checkpoint.reference:
                return checkpoint.preset
            folder = configurations(checkpoint)  # as the weights alone do not tell
        elif not path.is_dir() and _HUB_ID.fullmatch(name):
            folder = _snapshot(name, "pipeline")
        if folder is None:
            return "paper"
        family = FAMILIES.get(read_index(folder).get("_class_name", ""))
        return family.preset(partial(_configuration, folder)) if family else "paper"
    except (UserError, OSError):  # a name that no file can have, too
        return "paper"


def _configuration(folder: Path, part: str) -> dict:
    """What a pipeline's folder says of one of its parts."""
    scheduler = folder / part / "scheduler_config.json"
    return _json(scheduler if scheduler.is_file() else folder / part / "config.json")


def resolve_model(name: str | Path, kind: Kind = "pipeline") -> Path:
    """The folder of a model: "emojiland", a folder, or "org/name" in the hub's local cache.

    A base model may also be a single .safetensors file: then that. Raises UserError, with the
    remedy, for a name that leads nowhere and for what is not a complete model of this `kind` with
    safetensors weights; ValueError for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    name = str(PLACES.get((str(name), kind), name))
    if name == EMBEDDED:
        folder = ASSETS / EMBEDDED / kind
        if not folder.is_dir():
            raise UserError(
                f"{folder}: this installation lacks the embedded model; reinstall rpo, "
                "or name a model of your own"
            )
    else:
        folder = Path(expanduser(name))
        if folder.is_file():
            if kind != "pipeline":
                raise UserError(f"{name}: a file; name the folder of a transformers encoder")
            configurations(single_file.recognise(folder))
            return folder
        if not folder.is_dir():
            folder = _cached_or_refuse(name, kind)
    _refuse_incomplete(folder, kind)
    return folder


def resolve_models(wanted: Sequence[tuple[str, Kind]]) -> list[Path]:
    """`resolve_model` of several; one UserError names the commands for all that must be fetched."""
    found, missing = [], []
    for name, kind in wanted:
        try:
            found.append(resolve_model(name, kind))
        except _NotCached as error:
            missing.append(error)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        names = " and ".join(error.name for error in missing)
        commands = " and ".join(f"`{error.command}`" for error in missing)
        raise UserError(
            f"{names}: neither folders nor in the model cache of this machine; fetch them with "
            f"{commands}, or give the paths of folders that hold them"
        )
    return found


def tiny_decoder(name: str, model: Path) -> str:
    """What `online.decoder` names for a base model's folder or file: for "tiny" its family's.

    Raises UserError for a family whose tiny autoencoder is not known.
    """
    if name != "tiny":
        return name
    if model.is_file():
        family = FAMILIES[single_file.recognise(model).pipeline]
    else:
        family = FAMILIES[read_index(model)["_class_name"]]
    if not family.tiny_decoder:
        raise UserError(
            f"online.decoder tiny: none is known for {family.title}; name a folder, or own"
        )
    return family.tiny_decoder


def configurations(checkpoint: Checkpoint) -> Path:
    """The diffusers folder with what a single file lacks: configurations, tokenizers, some parts.

    It is the folder of the file's name beside it, else the one that the file lies in, else the
    repository in the hub's cache that the model was published in. Raises UserError, with the
    command that fetches what is missing.
    """
    file, beside = checkpoint.path, checkpoint.path.with_suffix("")
    marker = _marker("pipeline")
    folder = next((place for place in (beside, file.parent) if (place / marker).is_file()), None)
    if folder is None and checkpoint.reference:
        folder = _snapshot(checkpoint.reference, "pipeline")
    if folder is None:
        raise UserError(f"{file}: {_what_to_fetch(checkpoint, beside)}")
    index = read_index(folder)
    if index.get("_class_name") != checkpoint.pipeline:
        raise UserError(
            f"{file}: a {checkpoint.pipeline}, but {folder} describes a "
            f"{index.get('_class_name')}; put the configurations of the same model there"
        )
    for part in _components(index):
        if part in checkpoint.left_out:
            continue
        weights = part in checkpoint.lacking
        if not any((folder / part).glob("*.safetensors" if weights else "*.json")):
            missing = f"{folder / part} is missing or holds no {'weights' if weights else '.json'}"
            raise UserError(f"{file}: {missing}; {_what_to_fetch(checkpoint, beside)}")
    return folder


def _what_to_fetch(checkpoint: Checkpoint, beside: Path) -> str:
    """What a single file lacks and the command that fetches no more than that."""
    lacks = " and ".join(["configurations and tokenizers", *checkpoint.lacking])
    patterns = ["*.json", "*.txt", *(f"{part}/*.safetensors" for part in checkpoint.lacking)]
    options = "".join(f' --include "{pattern}"' for pattern in patterns)
    if checkpoint.lacking:
        options += ' --exclude "*.fp16.*"'
    if checkpoint.reference is None:
        doubt, names = FAMILIES[checkpoint.pipeline].file_doubt
        either = [f"`hf download {name}{options} --local-dir '{beside}'`" for name in names]
        return f"{doubt}; fetch the {lacks} of the one that it is: {' or '.join(either)}"
    return (
        f"the file lacks {lacks}; fetch them with `hf download {checkpoint.reference}{options}`, "
        f"or put those of its own diffusers folder into {beside}"
    )


def installed_models() -> list[InstalledModel]:
    """The embedded models, then those of the hub's cache, by name; no incomplete ones."""
    return [*_embedded(), *sorted(_cached(), key=lambda model: model.name.lower())]


def _embedded() -> Iterator[InstalledModel]:
    for kind in get_args(Kind):
        folder = ASSETS / EMBEDDED / kind
        if folder.is_dir():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield InstalledModel(EMBEDDED, kind, folder, size)


def _cached() -> Iterator[InstalledModel]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repo in repos:
        if repo.repo_type != "model":
            continue
        try:
            if folder := _snapshot(repo.repo_id, "pipeline"):
                kind: Kind = "pipeline"
            elif folder := _snapshot(repo.repo_id, "reward"):
                kind = _ENCODER_KINDS[_json(folder / "config.json")["model_type"]]
            else:
                continue
            _refuse_incomplete(folder, kind)
        except (KeyError, UserError):  # no encoder that can be used, or not usable
            continue
        yield InstalledModel(repo.repo_id, kind, folder, repo.size_on_disk)


class _NotCached(UserError):
    """A hub model that is not on this machine, and the command that fetches it."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.command = name, _download_command(name, kind)
        super().__init__(
            f"{name}: neither a folder nor in the model cache of this machine; fetch it with "
            f"`{self.command}`, or give the path of a folder that holds it"
        )


def _cached_or_refuse(name: str, kind: Kind) -> Path:
    if not _HUB_ID.fullmatch(name):
        near = difflib.get_close_matches(name, [EMBEDDED])
        remedy = f"did you mean {near[0]}?" if near else "name an existing folder or a hub id"
        what = "file" if name.endswith(".safetensors") else "model folder"
        raise UserError(f"{name}: no such {what}; {remedy}")
    folder = _snapshot(name, kind)
    if folder is None:
        raise _NotCached(name, kind)
    return folder


def _snapshot(hub_id: str, kind: Kind) -> Path | None:
    """The folder of the hub's cache that holds `hub_id`, if it has the file that marks `kind`."""
    # Imported here because it is slow, and not needed for a model that lies in a folder.
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        marker = try_to_load_from_cache(hub_id, _marker(kind), constants.HF_HUB_CACHE)
    except HFValidationError:  # no id that the hub could have
        return None
    return Path(marker).parent if isinstance(marker, str) else None


def _download_command(hub_id: str, kind: Kind) -> str:
    """Fetches what is read and no more: a Stable Diffusion repository holds its weights 8 times."""
    weights = "*/*.safetensors" if kind == "pipeline" else "*.safetensors"
    command = f"hf download {hub_id}"
    for pattern in ("*.json", "*.txt", weights):
        command += f' --include "{pattern}"'
    if kind == "pipeline":
        for pattern in ("*.fp16.*", "*non_ema*", "safety_checker/*"):  # the last is 1.2 GB
            command += f' --exclude "{pattern}"'
    return command


def _marker(kind: Kind) -> str:
    return "model_index.json" if kind == "pipeline" else "config.json"


def _refuse_incomplete(folder: Path, kind: Kind) -> None:
    """Raises UserError unless `folder` holds the marker file of its kind and all its weights."""
    marker = folder / _marker(kind)
    if not marker.is_file():
        what = _WHAT.get(kind, "transformers encoder")
        around = [*sorted(folder.glob(f"*/{marker.name}")), folder.parent / marker.name]
        inner = next((file for file in around if kind == "pipeline" and file.is_file()), None)
        remedy = f"did you mean {inner.parent}?" if inner else f"name the folder of a {what}"
        raise UserError(f"{folder}: no {marker.name} in it; {remedy}")
    for part in _weight_folders(folder, read_index(folder)) if kind == "pipeline" else [folder]:
        if not any(part.glob("*.safetensors")):
            raise UserError(
                f"{part}: no .safetensors weights in it (pickled .bin and .ckpt files are "
                "refused); fetch the rest of the model, or convert it with save_pretrained"
                + _without(part.name)
            )
        for index in sorted(part.glob("*.safetensors.index*.json")):
            content = _json(index)
            if wrong := misfit(content, {"weight_map": every(str)}):
                raise UserError(f"{index}: damaged ({wrong}); fetch the model again")
            shards = sorted(set(content.get("weight_map", {}).values()))
            absent = [shard for shard in shards if not (part / shard).is_file()]
            if absent and len(absent) < len(shards):  # none at all: another variant was fetched
                raise UserError(
                    f"{part / absent[0]}: missing; fetch the rest of the model{_without(part.name)}"
                )


def _weight_folders(pipeline: Path, index: dict) -> Iterator[Path]:
    """The components of a pipeline that have weights: only models have a config.json."""
    for name in _components(index):
        if not (pipeline / name).is_dir():
            raise UserError(
                f"{pipeline / name}: missing; fetch the rest of the model{_without(name)}"
            )
        if (pipeline / name / "config.json").is_file():
            yield pipeline / name


def _without(part: str) -> str:
    """How to do without a part that is missing; nothing for most of them."""
    advice = (f.without_optional for f in FAMILIES.values() if part in f.optional)
    return "".join(f", or {text}" for text in advice if text)


def _components(index: dict) -> Iterator[str]:
    """The parts of a pipeline that are loaded, by its model_index.json."""
    for name, entry in index.items():
        is_component = isinstance(entry, list) and len(entry) == 2 and all(entry)
        if is_component and name not in _NEVER_LOADED:
            yield name


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); fetch the model again") from None
    return content if isinstance(content, dict) else {}


# model_index.json: the class, and of each part its library and class; all else is a setting
_INDEX = {"_class_name": str, "_diffusers_version": str}


def read_index(folder: Path) -> dict[str, Any]:
    """A pipeline's model_index.json. Raises UserError for a damaged one."""
    file = folder / _marker("pipeline")
    index = _json(file)
    wrong = misfit(index, _INDEX)
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and misfit(entry, [(str, None)]):
            wrong = wrong or f"{name} must be a pair of names"
    if wrong:
        raise UserError(f"{file}: damaged ({wrong}); fetch the model again")
    return index
