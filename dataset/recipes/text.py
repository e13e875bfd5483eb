"""Text recipe: words, and the vocabulary that numbers them."""

import re
from collections import Counter
from collections.abc import Iterable

PADDING, UNKNOWN = 0, 1
WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_of(text: str) -> list[str]:
    """Runs of letters and digits in lower case; an apostrophe inside a word belongs to it."""
    return WORD.findall(text.lower())


class Vocabulary:
    """Numbers for the `size` most frequent words of `texts` that are there at least twice, from 2 on.

    0 is padding, 1 any other word; the words that the texts have once are others, so that 1 is learnt, too. Words that
    are equally frequent are taken by the alphabet: the order of the texts changes nothing.
    """

    def __init__(self, texts: Iterable[str], size: int):
        counts = Counter(word for text in texts for word in words_of(text))
        frequent = sorted((-count, word) for word, count in counts.items() if count > 1)
        self.numbers = {word: number for number, (_, word) in enumerate(frequent[:size], UNKNOWN + 1)}

    def encode(self, text: str, length: int) -> list[int]:
        """`length` numbers: the first words of the text, then padding."""
        numbers = [self.numbers.get(word, UNKNOWN) for word in words_of(text)[:length]]
        return numbers + [PADDING] * (length - len(numbers))
