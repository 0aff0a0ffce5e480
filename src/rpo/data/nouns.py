"""The class noun: what the photos show, and whether that is alive."""

from __future__ import annotations

from typing import Literal

from rpo.errors import UserError

Kind = Literal["live", "object"]

# The words that, last in a class noun, make a subject "live" (it gets the live list of prompts),
# unless one of the others stands before them, as in DreamBench's "stuffed animal".
_LIVE = """
    alpaca animal ant ape baby bear beagle bee bird boy budgie bull bulldog bunny butterfly calf
    camel canary cat chameleon chicken child chinchilla chipmunk cockatoo collie corgi cow crab
    crocodile crow dachshund dalmatian deer dog dolphin donkey dove dragonfly duck duckling eagle
    elephant elk falcon ferret fish flamingo foal fox frog gecko gerbil giraffe girl goat goldfish
    goose gorilla hamster hare hawk hedgehog hen hippo horse human husky iguana infant jaguar
    kangaroo kid kitten koala labrador ladybug lamb leopard lion lizard llama lynx macaw man
    meerkat mole monkey moose mouse octopus orangutan ostrich otter owl ox panda panther parakeet
    parrot peacock pelican penguin person pet pig pigeon piglet pony poodle pug puppy quail rabbit
    raccoon ram rat raven retriever rhino rooster salamander seal shark sheep shepherd shrimp
    skunk sloth snail snake sparrow spaniel spider squid squirrel stork swallow swan tarantula
    terrier tiger toad tortoise toucan turkey turtle walrus weasel whale wolf woman yak zebra
"""
LIVE_NOUNS = frozenset(_LIVE.split())
_LIFELESS = frozenset(("ceramic", "hot", "plastic", "plush", "rubber", "stuffed", "teddy", "toy"))


def checked_noun(noun: str, kind: Literal["auto", "live", "object"]) -> tuple[str, Kind]:
    """The noun without stray spaces, and the kind that "auto" stands for. Raises UserError."""
    noun = " ".join(noun.split())
    if not noun:
        raise UserError("noun is empty; name what the photos show, such as dog")
    if kind not in ("auto", "live", "object"):
        raise UserError(f"subject_kind must be auto, live or object, not {kind!r}")
    return noun, _kind_of(noun) if kind == "auto" else kind


def _kind_of(noun: str) -> Kind:
    *before, last = noun.lower().split()
    return "live" if last in LIVE_NOUNS and _LIFELESS.isdisjoint(before) else "object"
