"""report.html of a run: one self-contained page, made from the files of the run folder alone.

Pictures are inlined, the curve is SVG, there is no script and no address to fetch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from rpo.about import ASSETS
from rpo.config import SETTINGS, Config, value_of
from rpo.data.prompts import photo_texts
from rpo.exports.token_files import find_token, loading_lines
from rpo.models.resolve import EMBEDDED, resolve_model
from rpo.reading import read_text
from rpo.report.chart import reward_curve
from rpo.report.page import UNREADABLE, duration, memory, opened, picture, section, table
from rpo.report.unquantised import both_bases
from rpo.runs.folder import TO_PUT_BACK, RunFolder
from rpo.runs.meter import Cost
from rpo.runs.result import Run, Validation, drawing, quantisation_remark

STYLE = ASSETS / "report.css"


def render_report(folder: RunFolder) -> str:
    """The page as text. Parts whose data the run does not have yet are left out."""
    run = Run(folder.path)
    records = folder.records()
    history = run.history
    subject = f"{run.config.identifier} {run.config.noun}"
    body = [
        _header(run, records, subject),
        _photos(folder),
        _comparison(folder, records, history, run.config.validation.keep) if history else "",
        both_bases(run.path, records, run.config.quantize),
        _curve(run.config, history) if history else "",
        _labels(folder, records),
        _costs(records),
        _usage(run, subject) if history else "",
        _settings(folder, run.config, records),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(subject)} · rpo</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


# --- sections ----------------------------------------------------------------------------


def _header(run: Run, records: list[dict[str, Any]], subject: str) -> str:
    history, best = run.history, run.best_step
    done = max((record.get("step", 0) for record in records), default=0)
    photos = len(run.folder.environment()["subject"]["photos"])
    ends = {r["event"]: r for r in records if r["event"] in ("stopped", "failed")}
    lede = f"Learned from {photos} photos in {done} gradient steps, judged {len(history)} times. "
    notice = ""
    if not history:
        lede = f"Interrupted before the first validation; {photos} photos are ready."
    elif run.config.validation.keep == "last" and best is not None:
        lede += f"The weights of step {best} are kept: the last ones, whatever their reward."
    elif best == 0 and len(history) > 1:
        notice = (
            "No step scored above the base model, so best/ holds the base model itself: this run "
            "has not helped. More photos, more steps or another learning rate may."
        )
    elif best is not None:
        lede += f"The weights of step {best} scored best and are the ones kept."
    if ends.get("stopped", {}).get("reason") == "patience":
        lede += " Training stopped early, as the reward no longer rose."
    if "failed" in ends:
        notice += f" The run ended in an error: {ends['failed']['message']}"
    elif not ends and history:
        notice += " The run was interrupted and is not finished; --resume continues it."
    facts = _facts(history, records) if history else ""
    warning = f'<p class="notice">{escape(notice.strip())}</p>' if notice else ""
    return (
        f'<header>\n<p class="eyebrow">{escape(run.path.resolve().name)}</p>\n'
        f"<h1>{escape(subject)}</h1>\n"
        f'<p class="lede">{escape(lede)}</p>\n{warning}{facts}</header>'
    )


def _facts(history: tuple[Validation, ...], records: list[dict[str, Any]]) -> str:
    first = history[0]
    best = next((point for point in history if point.chosen), history[-1])
    seconds = sum(record["seconds"] for record in records if record["event"] == "phase")
    cells = [
        (
            label,
            f"{getattr(best, name):.3f}",
            f"was {getattr(first, name):.3f}" if best.step != first.step else "",
        )
        for name, label in (
            ("reward", "Reward"),
            ("image_alignment", "Image alignment"),
            ("text_alignment", "Text alignment"),
        )
    ]
    cells.append(("Time in all", duration(seconds), ""))
    items = "".join(
        f"<div><dt>{label}</dt><dd>{value} <small>{note}</small></dd></div>"
        for label, value, note in cells
    )
    return f'<dl class="facts">{items}</dl>'


_SQUARES = {
    "centre": "the centre square",
    "subject": "the square around the subject",
    "none": "the whole photo on plain ground",
}


def _photos(folder: RunFolder) -> str:
    files = sorted((folder.path / "images" / "photos").glob("*.png"))
    if not files:
        return ""
    photos = folder.environment()["subject"]["photos"]
    names = [": ".join(filter(None, (p["name"], p.get("caption", "")))) for p in photos]
    names = names if len(names) == len(files) else [file.name for file in files]
    figures = "".join(
        picture(file, f"photo {name}", name) for file, name in zip(files, names, strict=True)
    )
    square = _SQUARES[folder.config().photos.crop]
    intro = f"As the model sees them: upright, {square}, at the model's own size."
    return section("The photos", intro, f'<div class="photos">{figures}</div>')


def _comparison(
    folder: RunFolder, records: list[dict[str, Any]], history: tuple[Validation, ...], keep: str
) -> str:
    shown = {r["step"]: r for r in records if r["event"] == "validated"}
    best = next((point.step for point in history if point.chosen), None)
    last = history[-1].step
    columns = {0: "step 0, before", last: "last"}
    if best is not None:
        also = " (last)" if best == last else " (base)" if best == 0 else ""
        columns[best] = f"step {best}, chosen{also}"
    columns = {step: columns[step] for step in sorted(columns) if step in shown}
    if last in columns and last not in (0, best):
        columns[last] = f"step {last}, last"
    prompts = shown[last]["prompts"]
    cards = []
    for index, prompt in enumerate(prompts):
        trio = "".join(
            picture(
                folder.path / shown[step]["images"][index],
                f"{prompt}, step {step}",
                name,
                "chosen" if step == best else "",
            )
            for step, name in columns.items()
            if index < len(shown[step]["images"])
        )
        cards.append(
            f'<div class="pair"><h3>{escape(prompt)}</h3><div class="trio">{trio}</div></div>'
        )
    intro = (
        "Each card is one prompt, drawn from the same noise every time. These prompts were never "
        "trained on."
    )
    if keep == "best":
        intro += " They are the ones whose rewards chose the step."
    return section("Before and after", intro, f'<div class="pairs">{"".join(cards)}</div>')


def _curve(config: Config, history: tuple[Validation, ...]) -> str:
    share = config.reward.lambda_val
    intro = (
        f"The reward is the {config.reward.mean} mean of image alignment (is it this subject?) "
        f"and text alignment (is it what the prompt asks for?), the former with weight {share:g}."
    )
    legend = "".join(
        f'<li class="{style}"><span>{name}</span></li>'
        for style, name in (
            ("is-reward", "reward"),
            ("is-image", "image alignment"),
            ("is-text", "text alignment"),
        )
    )
    charts = "".join(
        f'<div class="{style}">{reward_curve(history, width, height)}</div>'
        for style, width, height in (("wide", 880, 340), ("narrow", 340, 280))
    )
    rows = [
        f'<tr class="{"pick" if point.chosen else ""}"><td class="n">{point.step}</td>'
        f'<td class="n">{point.reward:.4f}</td><td class="n">{point.image_alignment:.4f}</td>'
        f'<td class="n">{point.text_alignment:.4f}</td>'
        f"<td>{'chosen' if point.chosen else ''}</td></tr>"
        for point in history
    ]
    head = [("step", "n"), ("reward", "n"), ("image", "n"), ("text", "n"), ("", "")]
    return section(
        "Choosing the step" if config.validation.keep == "best" else "The course of the reward",
        intro,
        f'<div class="panel"><ul class="legend">{legend}</ul>{charts}</div>'
        f"<details><summary>All {len(history)} validations</summary>{table(head, rows)}</details>",
    )


def _labels(folder: RunFolder, records: list[dict[str, Any]]) -> str:
    found = [record for record in records if record["event"] == "labelled"]
    if not found:
        return ""
    label = found[-1]
    p = label["mean_probability"]
    intro = (
        "Every pair of a photo and a picture by the base model gets the probability that the "
        "photo is the better answer to the picture's prompt; "
    )
    drawn = label.get("labels", "drawn") == "drawn"
    intro += "each visit draws a fresh label." if drawn else "that probability is the label itself."
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value in (
            ("Pairs", f"{label['pairs']}"),
            ("Photo preferred", f"{p:.1%}"),
            ("Labels against the reward", f"{label['flip_rate']:.1%}"),
            ("Mean reward gap", f"{label['mean_gap']:+.3f}".replace("-", "\N{MINUS SIGN}")),
        )
    )
    bar = (
        f'<div class="split" aria-hidden="true"><span class="photo" style="width:{p:.1%}">photo'
        '</span><span class="drawing">drawn picture</span></div>'
    )
    drawn = sorted((folder.path / "images" / "training").glob("*.png"))
    pictures = "".join(picture(file, text, text) for file in drawn for text in [_prompt(file)])
    more = (
        f"<details><summary>The base model's {len(drawn)} pictures</summary>"
        f'<div class="drawn">{pictures}</div></details>'
        if drawn
        else ""
    )
    return section("Preference labels", intro, f'{bar}<dl class="facts">{facts}</dl><br>{more}')


def _prompt(file: Path) -> str:
    """The prompt that a picture carries in its PNG text."""
    try:
        with opened(file) as image:
            return str(image.info.get("prompt", file.stem))
    except UNREADABLE:
        return file.stem


def _costs(records: list[dict[str, Any]]) -> str:
    costs: dict[str, Cost] = {}
    for record in records:
        if record["event"] == "phase":
            costs.setdefault(record["phase"], Cost()).add(
                record["seconds"], record["memory_mb"], record["gpu_memory_mb"]
            )
    if not costs:
        return ""
    total = sum(cost.seconds for cost in costs.values()) or 1.0
    gpu = any(cost.gpu_memory_mb is not None for cost in costs.values())
    rows = []
    for phase, cost in costs.items():
        share = cost.seconds / total
        extra = f'<td class="n">{memory(cost.gpu_memory_mb)}</td>' if gpu else ""
        rows.append(
            f'<tr><td>{escape(phase)}</td><td class="n">{duration(cost.seconds)}</td>'
            f'<td class="n">{memory(cost.memory_mb)}</td>{extra}'
            f'<td class="w"><span class="bar" style="width:{share:.1%}"></span></td></tr>'
        )
    head = [("phase", ""), ("time", "n"), ("peak memory", "n")]
    head += [("GPU memory", "n")] if gpu else []
    content = table([*head, ("share of the time", "w")], rows)
    return section("Time and memory", "Per phase, over all sessions of this run.", content)


def _usage(run: Run, subject: str) -> str:
    path = str(run.path)
    prompt = f"a {subject} on the Moon"
    command = f'rpo generate {shlex.quote(path)} "{prompt}" -n 4 --seed 0'
    ours = f'import rpo\n\nrun = rpo.load_run({path!r})\nimages = run.generate("{prompt}", n=4)'
    how, size = drawing(run.config), run.config.resolution
    best, adapter = path + "/best", run.config.training.weights != "full"
    token = find_token(run.best)
    told = f"a {token} {run.config.noun} on the Moon" if token else prompt
    base = run.config.model if run.config.model != EMBEDDED else str(resolve_model(EMBEDDED))
    opened = (
        "from diffusers import DiffusionPipeline\n\n"
        f"pipeline = DiffusionPipeline.from_pretrained({base if adapter else best!r})\n"
    )
    if adapter and Path(base).is_file():  # diffusers alone would ask the hub for what it lacks
        opened = (
            "from pathlib import Path\n\nfrom rpo.models.loading import load_pipeline\n\n"
            f"pipeline = load_pipeline(Path({base!r}))\n"
        )
    plain = (
        opened
        + (f"pipeline.load_lora_weights({best!r})\n" if adapter and not token else "")
        + "".join(f"{line}\n" for line in loading_lines(run.best, best))
        + "image = pipeline(\n"
        f'    "{told}",\n'
        f"    num_inference_steps={how['steps']},\n"
        f"    guidance_scale={how['guidance_scale']},\n"
        + (f"    height={size},\n    width={size},\n" if size else "")
        + ").images[0]"
    )
    blocks = "".join(
        f"<h3>{title}</h3><pre>{escape(code)}</pre>"
        for title, code in (
            ("On the command line", command),
            ("In Python", ours),
            ("With diffusers", plain),
        )
    )
    intro = f"Write “{escape(subject)}” wherever a prompt should show the subject."
    remark = quantisation_remark(run.config)
    notice = f'<p class="notice">{escape(remark)}</p>' if remark else ""
    return section("Using the result", intro, notice + blocks)


def _settings(folder: RunFolder, config: Config, records: list[dict[str, Any]]) -> str:
    plain = Config()
    rows = []
    for key, setting in SETTINGS.items():
        value, default = (value_of(c, key) for c in (config, plain))
        if value != default and key not in ("model", "noun", "subject_kind"):
            rows.append(
                f'<tr><td class="key">{escape(key)}</td><td class="n">{escape(str(value))}</td>'
                f'<td class="n soft">{escape(str(default))}</td>'
                f'<td class="w soft">{escape(setting.help)}</td></tr>'
            )
    head = [("setting", ""), ("here", "n"), ("default", "n"), ("", "w")]
    differing = table(head, rows) if rows else ""
    details = [("All settings (config.toml)", _pre(folder.path / "config.toml"))]
    started = next((record for record in records if record["event"] == "started"), None)
    if started:
        details.insert(0, ("The prompts", _prompt_lists(started)))
    details.append(("Versions, hardware and model files", _environment(folder.environment())))
    blocks = "".join(
        f"<details><summary>{title}</summary>{content}</details>" for title, content in details
    )
    intro = f"Model {config.model}. "
    intro += "These differ from the defaults." if rows else "All at their defaults."
    return section("Settings", escape(intro), f"{differing}<br>{blocks}")


def _pre(file: Path) -> str:
    return f"<pre>{escape(read_text(file, TO_PUT_BACK))}</pre>"


def _prompt_lists(started: Mapping[str, Any]) -> str:
    captions = started.get("photo_prompts", ())
    lists = [("Photos", photo_texts(captions, started["reference_prompt"]))]
    lists += [("Training", started["training_prompts"])]
    lists += [("Validation", started["validation_prompts"])]
    return "".join(
        f"<h3>{title}</h3><ol>{''.join(f'<li>{escape(prompt)}</li>' for prompt in prompts)}</ol>"
        for title, prompts in lists
    )


def _environment(environment: Mapping[str, Any]) -> str:
    hardware = environment.get("hardware", {})
    kinds = ("device", "processor", "cores", "threads", "system")
    lines = [(key, hardware[key]) for key in kinds if key in hardware]
    lines += [("memory", f"{hardware['memory_gb']} GB")] if hardware.get("memory_gb") else []
    lines += [("accelerator", item["name"]) for item in hardware.get("accelerators", ())]
    lines += [("seed", environment["seed"])] if "seed" in environment else []
    lines += [(name, version or "–") for name, version in environment.get("versions", {}).items()]
    for role, model in environment.get("models", {}).items():
        lines += [
            (f"{role} {name}", digest)
            for name, digest in model["files"].items()
            if name.endswith(".safetensors")
        ]
    rows = (
        f'<tr><td>{escape(str(name))}</td><td class="key">{escape(str(value))}</td></tr>'
        for name, value in lines
    )
    return f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'
