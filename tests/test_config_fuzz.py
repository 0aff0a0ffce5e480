"""Whatever a config.toml or a --set says: a Config that can be written and read, or a UserError."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from rpo.config import METHODS, SETTINGS, Config, from_toml, load_config, to_toml
from rpo.errors import UserError
from rpo.models.resolve import known_presets

# Values as a user, a broken editor or an enemy may write them.
VALUES = [
    *("", " ", "0", "-0", "1", "-1", "7", "8", "400", "0.5", "1e-300", "1e300", "1e400", "-1e400"),
    *("nan", "-nan", "inf", "-inf", "+1", "1_000", "0x10", "0o7", "0b1", "1e", ".5", "5.", "1,5"),
    *("true", "True", "false", "yes", "auto", "none", "None", "null", "lora", "best", "dpm++"),
    *("9" * 25, "9" * 400, "9" * 5000, "0x" + "f" * 20, "0x" + "f" * 400, "0x" + "f" * 5000),
    *("1." + "3" * 5000, "1e" + "9" * 400, "[]", "[1]", "[[1]]", "{}", "{a=1}", "{a={b=1}}"),
    *("[" * 3000, "[" * 3000 + "]" * 3000, "{a=" * 500 + "1" + "}" * 500, "1979-05-27T07:32:00Z"),
    *('"', '""', '"""', "'''", "'a'", '"dog"', '"\\u0000"', '"\\ud800"', '"\\x"', '"\\"', "\\"),
    *('"a\\nb"', '"\\u001b[2J"', '"' + "a" * 10_000 + '"', '"狗"', '"[V]"', '"a b"', '"cuda:٣"'),
    *("狗", "٣", "²", "１２", "\0", "\x1b[2J", "\udcff", "\u2028", "\ufeff", "a\nb", "#", "=", "]"),
    *("cuda:99999999999999999999", "../..", "~nobody", "a" * 10_000, "%s", "{}{}", "$(x)", ";"),
]
NAMES = [
    *SETTINGS,
    *(key.split(".")[0] for key in SETTINGS),
    *("", ".", "..", "a", "training.", ".steps", "training.steps.x", "a" * 10_000, "狗", "\0"),
    *("__class__", "training.__init__", "a." * 1500 + "a", "\n", "steps", "Training.Steps"),
]
WHOLE = to_toml(Config())


def spelled(draw: random.Random) -> str:
    """An argument of --set."""
    name, value = draw.choice(NAMES), draw.choice(VALUES)
    return draw.choice([f"{name}={value}", f" {name} = {value} ", name, value, f"{name}=={value}"])


def assigned(draw: random.Random) -> str:
    """A TOML file of one or two lines."""
    key, value = draw.choice(NAMES), draw.choice(VALUES)
    section, _, name = key.rpartition(".")
    return draw.choice(
        [
            f"{key} = {value}",
            f"[{section}]\n{name} = {value}",
            f"[[{section}]]\n{name} = {value}",
            f'"{key}" = {value}',
            f"{section} = {{ {name} = {value} }}",
            f"{key} = {value}\n{key} = {draw.choice(VALUES)}",
        ]
    )


def damaged(draw: random.Random) -> str:
    """A run's config.toml after up to five accidents."""
    text = WHOLE
    for _ in range(draw.randint(1, 5)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice([0, 1, 1, 5, 40, 400]))
        put = draw.choice(
            ["", draw.choice(VALUES), chr(draw.randrange(0x250)), text[start:end] * 2]
        )
        text = text[:start] + put + text[end:]
    return text


def exchanged(draw: random.Random) -> str:
    """A run's config.toml with other values of some settings."""
    lines = WHOLE.splitlines()
    for _ in range(draw.randint(1, 3)):
        index = draw.choice([i for i, line in enumerate(lines) if " = " in line])
        lines[index] = f"{lines[index].partition(' = ')[0]} = {draw.choice(VALUES)}"
    return "\n".join(lines)


def noise(draw: random.Random) -> str:
    """Letters that mean something in TOML, in any order."""
    return "".join(draw.choices("a1.-_=[]{}\"'#\\\n, \t\r\0é狗\x1b", k=draw.randrange(80)))


def loaded(draw: random.Random) -> Config:
    """By `load_config`, with a preset and a method."""
    presets = known_presets()
    return load_config(
        draw.choice([None, *presets.settings, "nonsense", "\0"]),
        overrides=[spelled(draw) for _ in range(draw.randint(1, 3))],
        known=presets,
        method=draw.choice([None, *METHODS]),
    )


def read(draw: random.Random) -> Config:
    """By `from_toml`."""
    make: Callable[[random.Random], str] = draw.choice([assigned, damaged, exchanged, noise])
    return from_toml(make(draw), "config.toml")


def try_out(seeds: range) -> tuple[int, int]:
    """How many of these random configs were taken, and how many refused."""
    taken = refused = 0
    for seed in seeds:
        draw = random.Random(seed)
        make: Any = draw.choice([loaded, read])
        try:
            config = make(draw)
            assert from_toml(to_toml(config)) == config, seed
            taken += 1
        except UserError as error:
            message = str(error)
            assert message.isprintable(), (seed, message)
            assert 0 < len(message) < 4000, (seed, message)
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return taken, refused


def test_two_thousand_configs() -> None:
    taken, refused = try_out(range(2000))
    assert taken > 100  # else nothing but the doorstep was tried
    assert refused > 1000


@pytest.mark.slow
def test_eight_thousand_more() -> None:
    taken, refused = try_out(range(2000, 10_000))
    assert taken + refused == 8000
