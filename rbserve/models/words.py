"""The words of an item's text, for the models whose item vector is the mean of its words' embeddings (group B).

Used when a data set is prepared, and for texts of new items later: the same text has the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

MAX_WORDS = 64
"""Words of a text that are kept, unless the data set was prepared with another number."""

_PLAIN = re.compile("[a-z0-9 ]*")
_TWO_IN_ONE = frozenset({"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"})  # nltk parts these


def tokenize(text: str) -> list[str]:
    """The lower-cased words of a text, as nltk's word_tokenize gives them for one sentence.

    Texts are not split into sentences (nltk's splitter needs a model that pip does not install), so only
    a period at the end of the text becomes a token; one inside stays with its word: "new york. hello" holds
    "york.". Of words and spaces alone nltk makes what str.split does, a hundred times slower: these go
    without it. ModuleNotFoundError when nltk is needed and not installed.
    """
    lowered = text.lower()
    if _PLAIN.fullmatch(lowered):
        words = lowered.split()
        if _TWO_IN_ONE.isdisjoint(words):
            return words
    return _word_tokenizer()(lowered)


@cache
def _word_tokenizer() -> Callable[[str], list[str]]:
    from nltk.tokenize import NLTKWordTokenizer  # takes a second: only for those who tokenise

    split: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
    return split
