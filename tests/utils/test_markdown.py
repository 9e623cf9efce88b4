"""Tables that are straight."""

from espnet_des.utils.markdown import table


def test_numbers_stand_on_the_right_and_words_on_the_left():
    rows = [["n", "words", "wer (%)"], ["10", "a", "9.5"], ["200", "longer words", "10.25"]]
    assert table(rows, ["words"]) == [
        "|   n | words        | wer (%) |",
        "|----:|--------------|--------:|",
        "|  10 | a            |     9.5 |",
        "| 200 | longer words |   10.25 |",
    ]
