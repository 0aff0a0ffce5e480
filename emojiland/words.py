"""The tokenizer of Emojiland: CLIP's byte-pair encoding, learnt on its own few hundred words."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, CLIPTokenizer

from emojiland.art import CLASS_ICONS
from emojiland.backgrounds import CONTEXTS
from emojiland.figures import TINTS
from emojiland.outfits import OUTFITS
from emojiland.scenes import FILLERS, STYLE, Look

MAX_LENGTH = 20
IDENTIFIER = "[V]"
# Everyday words beside the captions' own, so that a stranger's prompt is not all letters.
MORE_WORDS = (
    "photo of the picture drawing one two and my your this that with at is small big new old"
)


def all_captions() -> list[str]:
    looks = [Look(), Look(style=True)]
    looks += [Look(context=k) for k in CONTEXTS] + [Look(tint=k) for k in TINTS]
    looks += [Look(outfit=k) for k in OUTFITS]
    return [look.caption(noun) for look, noun in itertools.product(looks, CLASS_ICONS)]


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer in which every caption word is one token: the folder's, or a new one.

    Merges of equal frequency come in any order, so one that models were trained with is kept.
    """
    if (folder / "tokenizer.json").is_file():
        return CLIPTokenizer.from_pretrained(folder)
    corpus = [*all_captions(), STYLE, MORE_WORDS]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    # frequent enough that each word ends up merged whole
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=[chr(c) for c in range(ord("a"), ord("z") + 1)],
    )
    learner.train_from_iterator((text.lower() for text in corpus), trainer)
    model = json.loads(learner.to_str())["model"]
    pieces = list(model["vocab"])
    alphabet = sorted(
        set(pieces) | set(map(chr, range(33, 127))) | {f"{chr(c)}</w>" for c in range(33, 127)}
    )
    vocab = {piece: k for k, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *alphabet])}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (IDENTIFIER, *FILLERS)])
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
