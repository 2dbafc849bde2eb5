"""Makes prompts of a given length whose texts differ."""

from __future__ import annotations

import random

_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back "
    "parent face others level office door health person art war history party result change morning"
)
WORDS = tuple(_TEXT.split())


def prompt(number: int, words: int, seed: int = 1) -> str:
    """The `number`th prompt of a family, `words` words long.

    Two prompts of different numbers below 8,000 differ within their first two
    words, so a cache of prefixes does not help.
    """
    draw = random.Random(f"{seed}/{number}")
    second, first = divmod(number, len(WORDS))
    head = [WORDS[first], WORDS[second % len(WORDS)]]
    return " ".join((head + draw.choices(WORDS, k=max(words - 2, 0)))[:words])
