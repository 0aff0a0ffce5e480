"""token.py and textual_inversion.py: a new word for the subject, and nothing else that learns."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import RESOLUTION, tiny_backbone, tiny_tokenizer
from torch import Tensor

from rpo.config import METHODS, Config, load_config
from rpo.errors import UserError
from rpo.exports.token_files import insert_token, loading_lines
from rpo.learners.token import Token, find_placeholder
from rpo.methods.method import Task
from rpo.methods.textual_inversion import TEMPLATES, TextualInversion
from rpo.models.backbone import Backbone

FAMILIES = ("epsilon", "v_prediction", "sdxl")
OTHERS = ("sd3", "sd3-without-t5", "flux-dev")
PROMPTS = ["a [V] dog at sea", "a photo of [V] dog", "a [V] dog at sea", "a dog"]


@cache
def config(**more: Any) -> Config:
    values = {"training.steps": 3, "textual_inversion.vectors": 3, **more}
    return load_config(
        "paper",
        method="textual_inversion",
        noun="dog",
        overrides=[f"{key}={value}" for key, value in values.items()],
    )


def task(backbone: Backbone, settings: Config, photos: int = 3) -> Task:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(photos, 3, RESOLUTION, RESOLUTION, generator=generator) * 2 - 1
    subject: Any = SimpleNamespace(tensor=lambda resolution: pictures)
    return Task(backbone, settings, subject, (), None)  # type: ignore[arg-type]


def prepared(method: Any) -> Any:
    events = method.prepare()
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def disturb(learner: Token) -> None:
    """Puts the tokens' vectors somewhere of their own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for rows in learner.rows.values():
            rows.add_(torch.randn(rows.shape, generator=generator))


# --- names ---------------------------------------------------------------------------------


def test_the_placeholder_is_a_name_that_no_tokenizer_has() -> None:
    plain, other = tiny_tokenizer(), tiny_tokenizer()
    assert find_placeholder("[V]", [plain]) == "<v>"
    assert find_placeholder("sks", [plain]) == "<sks>"
    assert find_placeholder("<Dog1>", [plain]) == "<dog1>"
    other.add_tokens(["<v>", "<v-2>_1"])  # of the second only its further vector
    assert find_placeholder("[V]", [plain, other]) == "<v-3>"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_token_begins_as_the_noun_and_prompts_without_it_read_as_before(kind: str) -> None:
    backbone = tiny_backbone(kind)
    learner = Token(backbone, config(**{"textual_inversion.vectors": 1}))
    for name, rows in learner.rows.items():
        pipeline = backbone.family.pipeline
        tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
        letters = [tokenizer.convert_tokens_to_ids(letter) for letter in ("d", "o", "g</w>")]
        assert tokenizer("dog", add_special_tokens=False).input_ids == letters
        embedding = getattr(pipeline, name).get_input_embeddings().weight
        assert torch.equal(rows, embedding[letters[:1]])
    disturb(learner)
    plain = ["a dog at sea", "a photo of dog"]
    for name, tensor in learner.encode(plain).tensors().items():
        assert torch.equal(tensor, backbone.encode_prompts(plain).tensors()[name])


def test_another_word_may_be_what_the_vectors_begin_as() -> None:
    backbone = tiny_backbone()
    learner = Token(backbone, config(**{"textual_inversion.initializer": "[V]"}))
    known = backbone.tokenizer.convert_tokens_to_ids("[V]")
    vector = backbone.text_encoder.get_input_embeddings().weight[known]
    assert torch.equal(learner.rows["text_encoder"], vector.expand(3, -1))
    # One vector that begins as the base's own [V] is read as that.
    single = Token(backbone, config(**{"textual_inversion.initializer": "[V]",
                                       "textual_inversion.vectors": 1}))  # fmt: skip
    assert torch.equal(single.encode(PROMPTS).tokens, backbone.encode_prompts(PROMPTS).tokens)


def test_only_whole_words_are_the_identifier() -> None:
    learner = Token(tiny_backbone(), replace(config(), identifier="sks"))
    assert learner._worded("sks, tasks: sks.") == (
        "<sks> <sks>_1 <sks>_2, tasks: <sks> <sks>_1 <sks>_2."
    )
    assert learner._worded("a <sks> dog") == "a <sks> <sks>_1 <sks>_2 dog"
    assert learner._worded("a <sks>_1 dog") == "a <sks>_1 dog"


# --- the base model is left alone ---------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_base_model_is_untouched_and_only_new_rows_learn(kind: str) -> None:
    backbone = tiny_backbone(kind)
    parts = {
        name: part
        for name, part in backbone.family.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    before = {
        f"{name}.{key}": value.clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    words = backbone.tokenizer.get_vocab()
    encoded = backbone.encode_prompts(PROMPTS).tokens

    learner = Token(backbone, config())
    method = TextualInversion(task(backbone, config()))
    data = prepared(method)
    optimizer = torch.optim.AdamW(learner.parameters().values(), lr=0.1)
    start = {name: rows.detach().clone() for name, rows in learner.parameters().items()}
    for step in range(3):
        optimizer.zero_grad()
        method.loss(learner, data, method.batch(data, step)).loss.backward()
        optimizer.step()

    assert {*start} == {f"{name}.token" for name in backbone.family.text_encoders}
    for name, rows in learner.parameters().items():
        assert rows.dtype == torch.float32
        assert len(rows) == 3
        assert (rows != start[name]).all(), "each of the vectors has a gradient"
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, before[f"{name}.{key}"]), key
        assert not any(p.requires_grad for p in part.parameters())
        assert all(p.grad is None for p in part.parameters())
    assert backbone.tokenizer.get_vocab() == words
    assert torch.equal(backbone.encode_prompts(PROMPTS).tokens, encoded)


def test_no_weight_is_held_twice() -> None:
    backbone = tiny_backbone("sdxl")
    learner = Token(backbone, config())
    for name in learner.rows:
        shared = {id(p) for p in getattr(backbone.family.pipeline, name).parameters()}
        ours = {id(p) for p in getattr(learner._family.pipeline, name).parameters()}
        assert ours - shared == {id(learner.rows[name])}
        assert shared <= ours
    denoiser = {id(p) for p in backbone.denoiser.parameters()}
    assert {id(p) for p in learner.denoiser.parameters()} == denoiser


# --- the loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_the_gradient_is_that_of_plain_diffusers_with_the_token_loaded(
    kind: str, tmp_path: Path
) -> None:
    """Autograd through a stock pipeline whose whole embedding learns; rows of the token compared.

    The prediction, the noise and the mean are worked out here anew.
    """
    settings = config(**{"training.batch_size": 2, "training.photos": 2})
    backbone = tiny_backbone(kind)
    learner = Token(backbone, settings)
    disturb(learner)
    method = TextualInversion(task(backbone, settings))
    data = prepared(method)
    batch = method.batch(data, 7)
    terms = method.loss(learner, data, batch)
    terms.loss.backward()
    assert torch.equal(terms.figures["similarity"], terms.loss.detach())

    learner.snapshot()(tmp_path)
    stock = tiny_backbone(kind).family.pipeline  # the same weights, another instance
    insert_token(stock, tmp_path)
    embeddings = {
        name: getattr(stock, name).get_input_embeddings().weight.requires_grad_(True)
        for name in learner.rows
    }
    photos = torch.cat([batch.photos, batch.more[0]])
    timesteps = torch.cat([batch.timesteps[0], batch.more[1]])
    noise = torch.cat([batch.noise[0], batch.more[2]])
    losses = []
    for row in range(len(photos)):
        text = TEMPLATES[batch.templates[row]].replace("{}", "<v> dog")
        tokens, pooled = stock_encode(stock, text)
        added = {}
        if pooled is not None:
            sizes = torch.tensor([[RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION]])
            added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        t = timesteps[row]
        a = stock.scheduler.alphas_cumprod[t]
        clean = data.reference_latents[photos[row]][None]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise[row][None]
        answer = stock.unet(noisy, t, encoder_hidden_states=tokens, **added).sample
        losses.append((answer - noise[row][None]).pow(2).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    assert loss.item() == pytest.approx(terms.loss.item(), rel=1e-5)
    for name, rows in learner.rows.items():
        theirs = embeddings[name].grad
        assert theirs is not None
        assert rows.grad is not None
        assert rows.grad.abs().max() > 1e-5
        torch.testing.assert_close(rows.grad, theirs[-3:], rtol=1e-3, atol=1e-7)


def stock_encode(stock: Any, text: str) -> tuple[Tensor, Tensor | None]:
    """What diffusers' own pipeline gives its denoiser."""
    if hasattr(stock, "tokenizer_2"):
        tokens, _, pooled, _ = stock.encode_prompt(text, None, "cpu", 1, False)
        return tokens, pooled
    return stock.encode_prompt(text, "cpu", 1, False)[0], None


def test_the_gradient_is_that_of_finite_differences_in_float64() -> None:
    settings = config(**{"training.photos": 2})
    backbone = tiny_backbone()
    learner = Token(backbone, settings)
    disturb(learner)
    method = TextualInversion(task(backbone, settings))
    data = prepared(method)
    batch = method.batch(data, 0)
    rows = learner.rows["text_encoder"]
    method.loss(learner, data, batch).loss.backward()
    assert rows.grad is not None

    exact = rows.detach().double()
    for part in (backbone.denoiser, learner.denoiser, learner._family.pipeline.text_encoder):
        part.double()
    backbone.dtype = torch.float64  # type: ignore[assignment]
    backbone.process.to(torch.device("cpu"))

    def loss(vectors: Tensor) -> float:
        rows.data = vectors
        photos, timesteps, noise = batch.all_photos()
        conditions = learner.encode([method.sentences[i] for i in batch.templates])
        latents = data.reference_latents[photos].double()
        noisy = backbone.add_noise(latents, noise.double(), timesteps)
        answer = learner.denoiser(
            noisy, timesteps, encoder_hidden_states=conditions.tokens, return_dict=False
        )[0]
        return float((answer - noise.double()).pow(2).flatten(1).mean(1).mean())

    step = 1e-5
    for place in ((0, 0), (1, 7), (2, 15)):
        change = torch.zeros_like(exact)
        change[place] = step
        with torch.no_grad():
            slope = (loss(exact + change) - loss(exact - change)) / (2 * step)
        assert rows.grad[place].item() == pytest.approx(slope, rel=2e-3, abs=1e-7), place


def test_sentences_follow_seed_and_step_alone_and_photos_are_every_methods() -> None:
    settings = config(**{"training.batch_size": 4})
    method = TextualInversion(task(tiny_backbone(), settings))
    data = prepared(method)
    again = TextualInversion(task(tiny_backbone(), settings))
    other = TextualInversion(task(tiny_backbone(), replace(settings, seed=1)))
    steps = [method.batch(data, step) for step in range(30)]
    assert all(
        torch.equal(s.templates, again.batch(data, k).templates) for k, s in enumerate(steps)
    )
    assert any(
        not torch.equal(s.templates, other.batch(data, k).templates) for k, s in enumerate(steps)
    )
    assert {int(i) for s in steps for i in s.templates} == set(range(len(TEMPLATES)))
    visit = method.visit(3, 5)
    assert torch.equal(steps[5].photos, visit.photos)
    assert torch.equal(steps[5].noise[0], visit.noise[0])
    parts = list(steps[5].split(2))
    assert torch.equal(torch.cat([p.templates for p in parts]), steps[5].templates)


def test_the_cost_counts_the_texts() -> None:
    passes = METHODS["textual_inversion"].passes(config(**{"training.photos": 2}))
    assert (passes.learning, passes.texts, passes.base, passes.drawn) == (2, 2, 0, 0)


def test_every_sentence_fits_the_small_world() -> None:
    tokenizer = Backbone.load("emojiland", device="cpu").tokenizer
    for template in TEMPLATES:
        ids = tokenizer(template.replace("{}", "[V] stuffed animal")).input_ids
        assert len(ids) <= 20, template


# --- families -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OTHERS)
def test_families_without_textual_inversion_are_refused_in_a_line(kind: str) -> None:
    with pytest.raises(UserError, match=r"training.weights token cannot be taught to a \w+") as e:
        Token.refuse(tiny_backbone(kind), config())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", FAMILIES)
def test_more_vectors_than_a_prompt_can_hold_are_refused(kind: str) -> None:
    # "a photo of dog" is 11 letters, its begin and its end: 27 of the 40 tokens are left.
    Token.refuse(tiny_backbone(kind), config(**{"textual_inversion.vectors": 27}))
    Token(tiny_backbone(kind), config(**{"textual_inversion.vectors": 27})).encode(
        ["a photo of [V] dog"]
    )
    with pytest.raises(UserError, match=r"vectors 28: beside 'a photo of dog' .* at most 27;"):
        Token.refuse(tiny_backbone(kind), config(**{"textual_inversion.vectors": 28}))


def test_a_prompt_that_the_vectors_make_too_long_is_refused() -> None:
    learner = Token(tiny_backbone(), config(**{"textual_inversion.vectors": 40}))
    with pytest.raises(UserError, match="tokens and the model reads 40; shorten it"):
        learner.encode(["a photo of [V] dog"])


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_diffusers_reads_the_files(kind: str, vectors: int, tmp_path: Path) -> None:
    backbone = tiny_backbone(kind)
    learner = Token(backbone, config(**{"textual_inversion.vectors": vectors}))
    disturb(learner)
    learner.snapshot()(tmp_path)
    for name, rows in learner.rows.items():
        file = f"learned_embeds{name.removeprefix('text_encoder')}.safetensors"
        saved = load_file(tmp_path / file)
        assert {*saved} == {"<v>"}
        assert torch.equal(saved["<v>"], rows.detach())

    pipeline = tiny_backbone(kind).family.pipeline
    code = "\n".join(loading_lines(tmp_path, str(tmp_path)))
    exec(code, {"pipeline": pipeline})  # as the report says it
    with torch.no_grad():
        ours = learner.encode(["a [V] dog at sea"])
        tokens, pooled = stock_encode(pipeline, "a <v> dog at sea")
    torch.testing.assert_close(ours.tokens, tokens, rtol=0, atol=1e-6)
    if pooled is not None:
        torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-6)

    again = Token(tiny_backbone(kind), learner.config, tmp_path)
    assert again.placeholder == "<v>"
    assert torch.equal(again.encode(PROMPTS).tokens, learner.encode(PROMPTS).tokens)


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    learner = Token(tiny_backbone(), config())
    before = learner.rows["text_encoder"].detach().clone()
    write = learner.snapshot()
    disturb(learner)
    write(tmp_path)
    assert torch.equal(load_file(tmp_path / "learned_embeds.safetensors")["<v>"], before)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"learned_embeds.safetensors: cannot be read"):
        Token(tiny_backbone(), config(), tmp_path)
