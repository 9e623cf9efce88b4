"""The corpora that are spoken by a synthesiser: digits, and a harder one of words."""

from typing import Dict

from espnet_des.corpus.spoken import Corpus, Part

DIGITS = tuple("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())
WORDS = tuple(
    """
    ABLE ACRE AFTER AGAIN AIM ALMOND ALWAYS ANCHOR ANGLE APPLE APRIL ARROW AUTUMN AWAY BACK
    BAKER BANANA BARN BASKET BEACH BEAN BEFORE BELL BERRY BETTER BIRD BLANKET BLUE BOAT BORDER
    BOTTLE BREAD BRIDGE BROTHER BROWN BUCKET BUTTER BUTTON CABIN CAMEL CANDLE CARPET CASTLE
    CEILING CHAIR CHEESE CHERRY CHICKEN CIRCLE CLOUD COFFEE COIN COPPER CORNER COTTON COUSIN
    COVER CRICKET CROWN CURTAIN DANGER DAUGHTER DECEMBER DEEP DESERT DINNER DOCTOR DOLLAR DONKEY
    DOOR DRAGON DUST EAGLE EARLY EARTH EAST ECHO ELBOW EMPTY ENGINE EVENING EVERY FABRIC FALCON
    FARMER FATHER FEATHER FEVER FIELD FINGER FLAME FLOWER FOREST FRIDAY FROZEN GARDEN GARLIC
    GENTLE GIANT GLASS GOLDEN GRAPE GREEN HAMMER HARBOR HARVEST HEAVY HELMET HONEY HORSE HOTEL
    HOUSE HUNGRY ISLAND IVORY JACKET JANUARY JELLY JUNGLE KETTLE KINGDOM KITCHEN LADDER LANTERN
    LAUNDRY LEATHER LEMON LETTER LITTLE LOUD LUMBER MARBLE MARCH MARKET MEADOW MELON METAL
    MIDDLE MILK MIRROR MONDAY MONKEY MORNING MOTHER MOUNTAIN MUSIC NAPKIN NARROW NEEDLE NORTH
    NUMBER OCEAN OCTOBER OLIVE ONION ORANGE ORCHARD OVEN PAINTER PALACE PAPER PARROT PENCIL
    PEPPER PICTURE PILLOW PLANET POCKET POTATO PURPLE QUARTER QUICK RABBIT RAINBOW RIBBON RIVER
    ROCKET SALMON SATURDAY SCHOOL SHADOW SHEPHERD SILVER SISTER SLEEP SMOOTH SOUTH SPIDER SPRING
    STATION STONE SUGAR SUMMER SWEET TABLE TEACHER THUNDER TIGER TOMATO TRAVEL TUESDAY TUNNEL
    TURTLE UNCLE UNDER VALLEY VELVET VILLAGE VIOLIN WAGON WALNUT WATER WEDDING WEST WHEEL
    WHISTLE WILLOW WINDOW WINTER WOODEN YELLOW YESTERDAY ZEBRA
    """.split()
)

CORPORA: Dict[str, Corpus] = {
    # For the demo: small, and easy.
    "digits": Corpus(
        DIGITS,
        (4, 9),
        (
            Part("train-digits", speakers=120, utterances=20, noisy=0.5),
            Part("dev-digits", speakers=20, utterances=10, noisy=0.5),
            Part("test-clean", speakers=40, utterances=10),
            Part("test-noisy", speakers=40, utterances=10, noisy=1.0, snr_db=(5.0, 20.0)),
        ),
    ),
    # The same with larger test sets: for comparisons, 400 utterances are too few.
    "digits_compare": Corpus(
        DIGITS,
        (4, 9),
        (
            Part("train-digits", speakers=120, utterances=20, noisy=0.5),
            Part("dev-digits", speakers=20, utterances=10, noisy=0.5),
            Part("test-clean", speakers=100, utterances=10),
            Part("test-noisy", speakers=100, utterances=10, noisy=1.0, snr_db=(5.0, 20.0)),
        ),
    ),
    # Words instead of digits, more noise, more data.
    "words": Corpus(
        WORDS,
        (3, 8),
        (
            Part("train-words", speakers=300, utterances=20, noisy=0.6, snr_db=(5.0, 30.0)),
            Part("dev-words", speakers=30, utterances=10, noisy=0.5, snr_db=(5.0, 20.0)),
            Part("test-clean", speakers=100, utterances=10),
            Part("test-noisy", speakers=100, utterances=10, noisy=1.0, snr_db=(5.0, 20.0)),
        ),
    ),
}
