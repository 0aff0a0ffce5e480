"""A run's result for other tools: a diffusers pipeline, or a LoRA for diffusers, kohya, ComfyUI.

An export is a new folder with the weights and a README.md. It is complete when it appears under its
name, and nothing that exists is ever written to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.errors import UserError
from rpo.exports.lora_names import ADAPTER_FILE, obstacle
from rpo.exports.token_files import find_token, insert_token, token_file
from rpo.models.families import FAMILIES
from rpo.replacing import ELSEWHERE, flush, flush_tree, naming_full_disk
from rpo.runs.folder import check_writable, expanded
from rpo.runs.lost import require_best
from rpo.runs.pictures import slug
from rpo.runs.result import Run, load_run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.exports.lora_file import Adapter
    from rpo.exports.model_card import Base, Export

FORMATS = {
    "diffusers": "a whole pipeline in diffusers' layout, an adapter or a new token put into it",
    "lora": "the adapter in diffusers' layout",
    "kohya": "the adapter in kohya's layout, which A1111, Forge, ComfyUI and sd-scripts read",
    "comfyui": "the adapter as ComfyUI reads it for this family of models",
}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def export(
    run: Run | str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    dtype: str = "fp32",
) -> Path:
    """Writes the run's chosen weights in another format and returns the new folder.

    to: one of `FORMATS`; out: a path where nothing is yet, by default export/<to> in the run
    folder; dtype: one of `DTYPES`, "fp32" is as trained. Raises UserError for another name, a path
    that exists, an unfinished run, and for an adapter format where the whole denoiser was trained.
    """
    if not isinstance(run, Run):
        run = load_run(run)
    folder = check(run, to, out, dtype)
    from rpo.exports.model_card import Export, model_card

    base = read_base(run)
    adapter = _adapter(run)
    if adapter is not None:
        dora = [name for name, layer in adapter.layers.items() if layer.magnitude is not None]
        blocks = base.denoiser.get("layers_per_block", 2)
        if reason := obstacle(to, base.pipeline, list(adapter.layers), dora, blocks):
            raise UserError(f"--to {to}: {reason}")
    name = ""
    if to != "diffusers":
        stem = slug(f"{run.config.noun} {run.path.resolve().name}")
        name = ADAPTER_FILE if to == "lora" else f"{stem}.safetensors"
    made = Export(run, base, to, dtype, name, adapter, find_token(run.best))
    with _new_folder(folder) as temporary:
        if to == "diffusers":
            _save_pipeline(made, temporary)
        else:
            _save_lora(made, temporary / name)
        (temporary / "README.md").write_text(model_card(made), encoding="utf-8", newline="\n")
    return folder


def check(
    run: Run, to: str, out: str | os.PathLike[str] | None = None, dtype: str = "fp32"
) -> Path:
    """The folder that `export` would make. Raises UserError as it does; nothing is written."""
    if to not in FORMATS:
        raise UserError(f"--to {to}: must be one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}")
    folder = run.path / "export" / to if out is None else expanded(out)
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: exists already; name a folder that does not by --out")
    if folder.suffix == ".safetensors":
        raise UserError(f"--out {folder}: name a folder; the file and its README.md go into it")
    check_writable(folder)
    require_best(run.folder)
    if to != "diffusers" and find_token(run.best):
        raise UserError(
            f"--to {to}: {run.path} taught a new token, so there is no adapter to export; use --to "
            f"diffusers{_as_embedding(run.best)}"
        )
    if to != "diffusers" and not _is_adapter(run):
        raise UserError(
            f"--to {to}: {run.path} trained the whole denoiser, so there is no adapter to export; "
            "use --to diffusers"
        )
    return folder


def _as_embedding(best: Path) -> str:
    """What A1111 and ComfyUI can do with a token's file of a single text encoder."""
    names = {file.name for file in best.glob("*.safetensors")}
    if names != {token_file("text_encoder")}:
        return ""
    (name,) = names
    return f", or put {best / name} among the embeddings of A1111 or ComfyUI, which read it"


def _is_adapter(run: Run) -> bool:
    return (run.best / ADAPTER_FILE).is_file() and not (run.best / "model_index.json").exists()


def _adapter(run: Run) -> Adapter | None:
    from rpo.exports.lora_file import read_adapter

    return read_adapter(run.best / ADAPTER_FILE) if _is_adapter(run) else None


def read_base(run: Run) -> Base:
    """What the base model's files say. Raises UserError where it is gone or another by now."""
    from huggingface_hub.repocard import metadata_load

    from rpo.exports.model_card import Base
    from rpo.models.resolve import configurations, resolve_model
    from rpo.models.single_file import recognise
    from rpo.runs.environment import file_hash

    path = resolve_model(run.config.model)
    checkpoint = recognise(path) if path.is_file() else None
    folder = configurations(checkpoint) if checkpoint else path

    def read(name: str) -> dict[str, Any]:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))

    index = read("model_index.json")
    pipeline = index.get("_class_name", "")
    denoiser = FAMILIES[pipeline].denoiser_name
    scheduler = read("scheduler/scheduler_config.json")
    if checkpoint and checkpoint.prediction:  # it overrules the configurations
        scheduler["prediction_type"] = checkpoint.prediction
    card: Mapping[str, Any] = {}
    if not checkpoint and (folder / "README.md").is_file():
        try:
            card = metadata_load(folder / "README.md") or {}
        except Exception:  # whatever a stranger's front matter holds; it only tells the licence
            card = {}
    config = read(f"{denoiser}/config.json")
    absent = [
        name for name in FAMILIES[pipeline].optional if index.get(name, "") in (None, [None, None])
    ]
    absent = list(checkpoint.left_out) if checkpoint else absent
    base = Base(path, run.config.model, pipeline, config, scheduler, card, absent)
    recorded = run.folder.environment()["models"]["pipeline"]["files"]
    for name, digest in base.weights(recorded).items():
        file = path if checkpoint else path / name
        if not file.is_file() or file_hash(file) != digest:
            raise UserError(
                f"{file}: is not the file that {run.path} was trained on; put that model back"
            )
    return base


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, renamed to it if nothing goes wrong and removed otherwise."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be made ({error.strerror}); name another"
        ) from None
    try:
        temporary.chmod(0o755)  # mkdtemp's is its owner's alone
        with naming_full_disk(folder, ELSEWHERE):
            yield temporary
            flush_tree(temporary)
            os.rename(temporary, folder)  # refuses a folder that has come to hold something
            flush(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


# --- weights -----------------------------------------------------------------------------


def _save_lora(made: Export, file: Path) -> None:
    """One .safetensors in the layout and precision asked for."""
    import torch
    from safetensors.torch import save_file

    from rpo.exports.lora_file import METADATA, for_comfyui
    from rpo.exports.model_card import file_metadata

    adapter, base = made.adapter, made.base
    assert adapter is not None
    metadata = file_metadata(made)
    blocks = base.denoiser.get("layers_per_block", 2)
    if made.to == "lora":
        tensors = adapter.diffusers()
        if adapter.config:
            config = {f"{adapter.part}.{key}": value for key, value in adapter.config.items()}
            metadata[METADATA] = json.dumps(config, indent=2, sort_keys=True)
    elif made.to == "comfyui":
        if adapter.is_dora:
            adapter = for_comfyui(adapter, _base_weights(base, adapter))
        if base.is_unet:
            tensors = adapter.kohya(base.pipeline, blocks)
        else:
            tensors = adapter.comfyui(base.pipeline)
    else:
        tensors = adapter.kohya(base.pipeline, blocks)
    kind = getattr(torch, DTYPES[made.dtype])
    # alpha is a number, and stays one
    tensors = {
        key: (tensor if key.endswith(".alpha") else tensor.to(kind)).contiguous().clone()
        for key, tensor in tensors.items()
    }
    _refuse_infinite(tensors, made)
    save_file(tensors, str(file), metadata=metadata)


def _base_weights(base: Base, adapter: Adapter) -> dict[str, Tensor]:
    """The adapted layers' weights in the base model, by the layers' names; from its files."""
    from safetensors import safe_open

    wanted = {f"{name}.weight": name for name in adapter.layers}
    found = {}
    if base.path.is_file():  # under the names of the original code
        from rpo.models.loading import load_pipeline

        weights = getattr(load_pipeline(base.path), adapter.part).state_dict()
        found = {name: weights[key] for key, name in wanted.items() if key in weights}
    for file in sorted((base.path / adapter.part).glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                if key in wanted:
                    found[wanted[key]] = opened.get_tensor(key)
    if missing := [name for name in adapter.layers if name not in found]:
        raise UserError(f"{base.path}: its {adapter.part} has no layer {missing[0]}")
    return found


def merge(denoiser: nn.Module, adapter: Adapter) -> None:
    """Puts the adapter into the denoiser's own weights. Raises UserError where they do not fit."""
    import torch

    parameters = dict(denoiser.named_parameters())
    with torch.no_grad():
        for name, layer in adapter.layers.items():
            weight = parameters.get(f"{name}.weight")
            if weight is None or weight.shape[0] != layer.up.shape[0]:
                raise UserError(f"model: its denoiser has no layer {name} that fits the adapter")
            weight.copy_(layer.merged(weight))


def _save_pipeline(made: Export, folder: Path) -> None:
    """The whole pipeline, the adapter merged into its denoiser or the token among its words."""
    import torch

    from rpo.models.backbone import Backbone
    from rpo.quiet import quiet

    whole = made.adapter is None and not made.token
    source = made.run.best if whole else made.base.path
    side = made.run.folder.environment()["resolution"]
    backbone = Backbone.load(source, device="cpu", resolution=side)
    if made.adapter is not None:
        merge(backbone.denoiser, made.adapter)
    pipeline = backbone.pipeline(backbone.denoiser)
    if made.token:
        insert_token(pipeline, made.run.best)
    with quiet():
        pipeline.to(getattr(torch, DTYPES[made.dtype]))
        _refuse_infinite(backbone.denoiser.state_dict(), made)
        pipeline.save_pretrained(folder, safe_serialization=True)


def _refuse_infinite(tensors: Mapping[str, Tensor], made: Export) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            remedy = "use --dtype bf16" if made.dtype == "fp16" else "start a new run"
            raise UserError(f"{made.run.path}: {key} is not finite in {made.dtype}; {remedy}")


# --- the hub -----------------------------------------------------------------------------


def check_push(repo: str, api: Any | None = None) -> Any:
    """The hub's client, logged in. Raises UserError for a name that is none, and offline."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if "/" not in repo:
            raise HFValidationError
    except HFValidationError:
        raise UserError(f"--push {repo}: must be ORG/NAME, such as me/my-dog") from None
    api = api or HfApi()
    with _naming_hub_errors(repo, "log in by `hf auth login`, or leave --push out"):
        api.whoami()
    return api


def push(folder: Path, repo: str, api: Any | None = None) -> str:
    """Uploads an export to a new private repository on the hub and returns its address.

    Raises UserError offline, without a login, and for a repository that exists.
    """
    api = check_push(repo, api)
    later = f"the export itself is in {folder}: upload it by `hf upload {repo} '{folder}'`"
    with _naming_hub_errors(repo, later):
        address = str(api.create_repo(repo, private=True, exist_ok=False))
        api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message=f"Export of {folder.name}"
        )
    return address


@contextmanager
def _naming_hub_errors(repo: str, remedy: str) -> Iterator[None]:
    """Makes what goes wrong between here and the hub a UserError of one line."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(f"--push {repo}: not logged in at the hub; {remedy}") from None
    except OfflineModeIsEnabled:
        raise UserError(
            f"--push {repo}: the hub is switched off by HF_HUB_OFFLINE; {remedy}"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reasons = {
            401: "the hub does not accept the login",
            403: "the login may not write there",
            409: "exists already; nothing there is overwritten",
        }
        reason = reasons.get(status or 0, str(error).strip().splitlines()[0])
        raise UserError(f"--push {repo}: {reason}; {remedy}") from None
    except (HTTPError, OSError) as error:  # of its client, which is another with each version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"--push {repo}: the hub cannot be reached ({reason}); {remedy}") from None
