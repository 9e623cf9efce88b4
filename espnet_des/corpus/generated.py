"""The corpora that are spoken by synthesisers: digits, words, and read sentences."""

from espnet_des.corpus.spoken import Corpus, Part
from espnet_des.corpus.text import BookSentences, RandomWords

DIGITS = tuple("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())
WORDS = tuple(
    """
    ABLE AGAIN ALWAYS APPLE AUTUMN BAKER BASKET BEFORE BETTER BLUE BOTTLE BROTHER BUTTER CAMEL
    CASTLE CHEESE CIRCLE COIN COTTON CRICKET DANGER DEEP DOCTOR DOOR EAGLE EAST EMPTY EVERY
    FARMER FEVER FLAME FRIDAY GARLIC GLASS GREEN HARVEST HONEY HOUSE IVORY JELLY KINGDOM LANTERN
    LEMON LOUD MARCH MELON MILK MONKEY MOUNTAIN NARROW NUMBER OLIVE ORCHARD PALACE PENCIL PILLOW
    POTATO QUICK RIBBON SALMON SHADOW SISTER SOUTH STATION SUMMER TEACHER TOMATO TUNNEL UNDER
    VILLAGE WALNUT WEST WILLOW WOODEN ZEBRA
    """.split()
)


def _tests(count: int) -> tuple[Part, ...]:
    """Test sets of as many speakers each, ten utterances a speaker."""
    return (
        Part("test-clean", speakers=count, utterances=10),
        Part("test-noisy", speakers=count, utterances=10, noisy=1.0, snr_db=(5.0, 20.0)),
    )


TRAIN_DIGITS = (
    Part("train-digits", speakers=120, utterances=20, noisy=0.5),
    Part("dev-digits", speakers=20, utterances=10, noisy=0.5),
)
# By the name of their recipe.
CORPORA: dict[str, Corpus] = {
    # For the demo: small, and easy.
    "mini_digits": Corpus(RandomWords(DIGITS, (4, 9)), TRAIN_DIGITS + _tests(40)),
    # The same with larger test sets: for comparisons, 800 utterances are too few.
    "compare_digits": Corpus(RandomWords(DIGITS, (4, 9)), TRAIN_DIGITS + _tests(100)),
    # Words instead of digits, more noise, more data.
    "compare_words": Corpus(
        RandomWords(WORDS, (3, 8)),
        (
            Part("train-words", speakers=300, utterances=20, noisy=0.6, snr_db=(5.0, 30.0)),
            Part("dev-words", speakers=30, utterances=10, noisy=0.5, snr_db=(5.0, 20.0)),
            *_tests(100),
        ),
    ),
    # 15 hours of sentences with an open vocabulary.
    "compare_read": Corpus(
        BookSentences(),
        (
            Part("train-read", speakers=500, utterances=22, noisy=0.5, snr_db=(5.0, 35.0)),
            Part("dev-read", speakers=30, utterances=10, noisy=0.5, snr_db=(5.0, 35.0)),
            *_tests(100),
        ),
    ),
    # Natural voices, which take much longer to speak: shorter sentences, and fewer.
    "compare_natural": Corpus(
        BookSentences(count=(4, 12)),
        (
            Part("train-natural", speakers=450, utterances=15, noisy=0.5, snr_db=(5.0, 35.0)),
            Part("dev-natural", speakers=30, utterances=10, noisy=0.5, snr_db=(5.0, 35.0)),
            *_tests(100),
        ),
        voices="kokoro",
    ),
}
