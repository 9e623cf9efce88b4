"""tokens.txt of sherpa-onnx, and what it makes of the tokens, beside what ESPnet does.

sherpa-onnx joins tokens after it made a space of a ``▁`` in front.
"""

from collections.abc import Callable, Iterable, Sequence

from espnet_des.errors import ConfigError
from espnet_des.nn.losses import CTC_BLANK

BLANK, WORD_BEGIN = "<blk>", "▁"
SPACE = "<space>"  # of ESPnet's characters
TOKEN_TYPES = ("char", "bpe", "word")
DROPPED = ("SIL", "</s>")  # of its own models
WHITE_SPACE = " \t\n\r\f\v"
# A first byte of UTF-8 up to which sherpa-onnx takes a list for one of byte-level BPE.
BYTE_LEVEL = 0xC6
# Of tokens, where ESPnet's text differs; a few are told, more is another kind of model.
MOST_OTHERS = 0.1


def symbols(tokens: Sequence[str], token_type: str) -> list[str]:
    """How the tokens of a model stand in tokens.txt, in the order of their ids.

    Raises:
        ConfigError: where sherpa-onnx could not read them, or not make text of them.
    """
    if token_type not in TOKEN_TYPES:
        raise ConfigError(
            f"token_type: {token_type}: sherpa-onnx cannot make text of its tokens; it can of "
            f"{list(TOKEN_TYPES)}"
        )
    found = [_symbol(token, token_type) for token in tokens]
    found[CTC_BLANK] = BLANK
    unreadable = [s for s in found if not s or any(c in s for c in WHITE_SPACE)]
    if unreadable:
        raise ConfigError(
            f"token_list: sherpa-onnx cannot read {unreadable[0]!r}: white space"
        )
    if found.count(BLANK) > 1:
        raise ConfigError(f"token_list: {BLANK} stands for the blank token; name it otherwise")
    if {"<0x00>", "<0xFF>"} <= {*found}:
        raise ConfigError(
            "token_list: <0x00> to <0xFF>: text from single bytes was not tested with "
            "sherpa-onnx; train the sentencepiece model without byte_fallback"
        )
    last = [max(symbol.removeprefix(WORD_BEGIN).encode(), default=0) for symbol in found]
    if max(last) == BYTE_LEVEL:
        odd = found[last.index(BYTE_LEVEL)]
        raise ConfigError(
            f"token_list: with {odd!r} and nothing of a later alphabet, sherpa-onnx would take "
            "the tokens for bytes"
        )
    return found


def _symbol(token: str, token_type: str) -> str:
    if token_type == "word":
        return WORD_BEGIN + token
    return WORD_BEGIN if token_type == "char" and token == SPACE else token


def tokens_file(found: Iterable[str]) -> str:
    """The content of tokens.txt, of what :func:`symbols` gives."""
    return "".join(f"{symbol} {number}\n" for number, symbol in enumerate(found))


def joined(found: Iterable[str]) -> str:
    """What sherpa-onnx makes of these symbols."""
    kept = (s for s in found if s not in DROPPED)
    text = "".join(
        " " + s.removeprefix(WORD_BEGIN) if s.startswith(WORD_BEGIN) else s for s in kept
    )
    return text.removeprefix(" ")


def written_otherwise(
    tokens: Sequence[str], found: Sequence[str], tokens2text: Callable[[list[str]], str]
) -> dict[str, str]:
    """Tokens of which sherpa-onnx makes another text than ESPnet, to that of ESPnet.

    Args:
        tokens: of the model.
        found: what :func:`symbols` made of them.
        tokens2text: of ESPnet's tokenizer.

    Raises:
        ConfigError: where it does so of many.
    """
    others = {}
    first = max(range(len(tokens)), key=lambda i: found[i].isalnum())  # before each of them
    for number, token in enumerate(tokens):
        if number == CTC_BLANK:
            continue
        ours = tokens2text([tokens[first], token]).strip()
        if joined([found[first], found[number]]).strip() != ours:
            others[token] = tokens2text([token])
    if len(others) > MOST_OTHERS * len(tokens):
        raise ConfigError(
            f"token_list: sherpa-onnx would make another text of {len(others)} of "
            f"{len(tokens)} tokens, such as {', '.join([*others][:3])}"
        )
    return others
