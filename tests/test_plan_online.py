"""`rpo plan` of method online: bytes against a real step, times by hand, what it gives up when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jobs import World, make_world

from rpo.config import METHODS, Config, OnlineConfig, Passes, TrainingConfig, load_config
from rpo.data.bundled import bundled_subject
from rpo.data.prompts import Prompt
from rpo.learners import learner_class
from rpo.methods.method import Task
from rpo.methods.online import Online
from rpo.models.backbone import Backbone
from rpo.models.resolve import resolve_model
from rpo.planning.architectures import load_architecture
from rpo.planning.estimate import Choice, Estimator, Phase
from rpo.planning.plan import make_plan
from rpo.planning.rates import Rate
from rpo.rewards.alignment import AlignmentReward

RATE = Rate(1e12, 2e12, "as in a test")


def estimator(model: str = "emojiland", **settings: Any) -> Estimator:
    return Estimator(
        load_architecture(model), load_config(model=model, method="online", **settings), 8, 8
    )


def training(phases: tuple[Phase, ...]) -> Phase:
    (found,) = [phase for phase in phases if phase.name == "training"]
    return found


# --- bytes and times --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "recompute", "depth"),
    [(1, False, 1), (8, False, 1), (8, True, 1), (4, False, 3), (4, True, 3)],
)
def test_a_rewarded_step_takes_the_bytes_that_a_real_one_takes(
    pictures: int, recompute: bool, depth: int
) -> None:
    """Peak of all tensors of such a step on the CPU, as PyTorch's profiler books them."""
    from torch.profiler import ProfilerActivity, profile

    config = load_config(
        model="emojiland",
        method="online",
        noun="dog",
        overrides=[
            f"online.pictures={pictures}",
            f"online.depth={depth}",
            f"training.checkpointing={recompute}".lower(),
        ],
    )
    backbone = Backbone.load(resolve_model("emojiland"), device="cpu")
    subject = bundled_subject("dog3")
    prompts = [Prompt.from_template(t, "dog", "[V]") for t in ("a {} on the Moon", "a green {}")]
    reward = AlignmentReward.load(resolve_model("emojiland", "reward"), subject, backbone)
    method = Online(Task(backbone, config, subject, prompts, reward))
    learner = learner_class("full")(backbone, config)
    if recompute:
        learner.denoiser.enable_gradient_checkpointing()
    work = method.prepare()
    while True:
        try:
            next(work)
        except StopIteration as end:
            data = end.value
            break
    batch = method.batch(data, config.online.start)
    backbone.unconditional()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        method.loss(learner, data, batch).loss.backward()
    events = profiled.profiler.kineto_results.events()
    alive = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    choice = Choice(pictures=pictures, checkpointing=recompute)
    found = estimator(**{"online.depth": depth})
    planned = training(found.phases(choice, RATE)).activations
    if recompute:  # what L_sim recomputes for a moment is counted as if it stayed
        assert peak < planned < 1.25 * peak
    else:
        assert planned == pytest.approx(peak, rel=0.15)


def test_which_steps_reward_how_many_drawings() -> None:
    def passes(**settings: Any) -> Passes:
        return METHODS["online"].passes(
            Config(
                method="online",
                training=TrainingConfig(preference_weight=0.0, steps=10, photos=2),
                online=OnlineConfig(**{"start": 3, "every": 3, "pictures": 5, **settings}),
            )
        )

    assert passes() == Passes(2, rewarded=5, rewarding=3)  # steps 3, 6 and 9
    assert passes(start=10) == Passes(2, rewarded=5, rewarding=0)
    assert passes(weight=0) == Passes(2)


def test_times_follow_from_the_operations() -> None:
    found, choice = estimator(), Choice()
    counter, online = found.counter, found.config.online
    step = counter.step("fp32", Passes(), choice.learner, False).flops
    both = counter.draw("fp32", 2, choice.learner).flops
    decode = counter.decode_learning("fp32", False).flops
    reward = counter.reward_learning("fp32").flops
    # 10 solver steps, the last with gradient, or the one or two before it: 8 are left in the mean
    assert (online.steps, online.late, online.start, online.every) == (10, 3, 100, 2)
    drawing = 8 * both + both / 2 + step + decode + reward
    expected = 400 * step + 150 * 4 * drawing  # 100, 102, … 398
    assert training(found.phases(choice, RATE)).seconds == pytest.approx(expected / 1e12)
    twice = training(found.phases(replace(choice, accumulate=2), RATE)).seconds
    assert twice == pytest.approx(2 * expected / 1e12)


def test_backward_is_twice_the_forward_pass_of_what_is_frozen_and_a_third_more_recomputed() -> None:
    """A frozen network's weights get no gradient: backward is one product for each of forward's."""
    counter = estimator().counter
    forward = counter.decode("fp32").flops
    assert counter.decode_learning("fp32", False).flops == pytest.approx(2 * forward, rel=0.01)
    assert counter.decode_learning("fp32", True).flops == pytest.approx(3 * forward, rel=0.01)
    reward = counter.reward("fp32").flops
    assert counter.reward_learning("fp32").flops == pytest.approx(2 * reward, rel=0.05)


def test_what_has_to_be_there_while_it_learns() -> None:
    found = estimator()
    base = found._resident(Choice())
    here, away = (training(found.phases(Choice(offload=o), RATE)).weights for o in (False, True))
    assert here - away == base["texts"]  # decoder and reward model stay for the gradient
    tiny = training(found.phases(Choice(offload=True, decoder="tiny"), RATE)).weights
    assert away - tiny == base["vae"]
    without = replace(found.config, online=OnlineConfig(weight=0.0))
    plain = Estimator(found.shape, without, 8, 8)
    alone = training(plain.phases(Choice(offload=True), RATE))
    assert tiny - alone.weights == base["reward"]


def test_a_tiny_decoder_is_the_published_ones_size() -> None:
    """1.22 million numbers in TAESD's decoder, by its card; its activations are 64 channels."""
    counter = estimator("sd15").counter
    tiny, own = (counter.decode_learning("fp32", False, tiny) for tiny in (True, False))
    assert own.peak() > 4 * tiny.peak()
    # at full size: three blocks of one (3 convolutions, 3 activations and a sum), of 64 x 512 x 512
    assert tiny.peak() > 5 * 4 * 64 * 512 * 512


# --- choices ----------------------------------------------------------------------------------


class Imagined:
    """GB by hand: 4 + 4 a rewarded drawing (1 by a tiny decoder), all weights 16, a LoRA 1."""

    def phases(self, choice: Choice, rate: Rate) -> tuple[Phase, ...]:
        learning = {"full": 16, "lora": 1}[choice.weights]
        each = 4 if choice.decoder == "own" else 1
        base = 4 if choice.precision == "fp32" else 2
        peak = base + learning + choice.pictures * each
        return (Phase("training", 0, 0, round(peak * 1e9), 1.0),)


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (36, {}),  # 4 + 16 + 4 x 4
        (24, {"online.decoder": "tiny"}),
        (22, {"online.decoder": "tiny", "precision": "bf16"}),
        (20, {"online.decoder": "tiny", "precision": "bf16", "online.pictures": 2}),
        # with a LoRA there is room for all drawings again, in 2 + 1 + 4
        (8, {"online.decoder": "tiny", "precision": "bf16", "training.weights": "lora"}),
        (19.5, {"precision": "bf16", "training.weights": "lora"}),  # and for the decoder
    ],
)
def test_what_online_gives_up(gigabytes: float, expected: dict[str, Any]) -> None:
    config = load_config(model="sd15", method="online")
    made = make_plan(Imagined(), config, RATE, gigabytes * 1e9)  # type: ignore[arg-type]
    if gigabytes == 19.5:  # held, or two drawings would do
        held = ("online.pictures",)
        made = make_plan(Imagined(), config, RATE, gigabytes * 1e9, held)  # type: ignore[arg-type]
    assert made.fits
    assert made.settings() == expected


def test_other_methods_give_up_nothing_of_it() -> None:
    config = load_config(model="emojiland")
    found = Estimator(load_architecture("emojiland"), config, 8, 8)
    made = make_plan(found, config, RATE, 1e9)
    assert not {"online.decoder", "online.pictures"} & made.settings().keys()
    assert found.phases(Choice(pictures=1, decoder="tiny"), RATE) == found.phases(Choice(), RATE)


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [8, 12, 24])
def test_stable_diffusion_online(gigabytes: float) -> None:
    found = estimator("sd15")
    made = make_plan(found, found.config, RATE, gigabytes * 1e9)
    assert made.fits
    assert made.choice.pictures == 4
    assert (made.choice.weights == "full") == (gigabytes == 24)
    # four drawings' decoder with gradient alone: more than a GB each in float32
    assert training(made.wanted).activations > 4e9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("planned"))


def test_the_preset_names_the_method(world: World) -> None:
    config = load_config("online", model="sd15", noun="dog")
    assert config.method == "online"
    assert config.training.checkpointing
    assert load_config(["paper", "online"]).training.learning_rate == 5e-6
    assert load_config("paper").method == "rpo"  # as published
    assert load_config("online", overrides=["method=similarity"]).method == "similarity"
