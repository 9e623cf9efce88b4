"""Tables in Markdown whose columns are straight in a log, too."""

from collections.abc import Collection, Sequence


def table(rows: Sequence[Sequence[str]], words: Collection[str] = ()) -> list[str]:
    """Lines of a table.

    Args:
        rows: cells, those of the head first.
        words: titles of the columns that stand on the left; the others, of numbers, on the
            right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_left = [title in words for title in rows[0]]
    lines = []
    for row in rows:
        cells = zip(row, widths, is_left)
        padded = (cell.ljust(n) if left else cell.rjust(n) for cell, n, left in cells)
        lines.append(f"| {' | '.join(padded)} |")
    rule = ("-" * (n + 1) + ("-" if left else ":") for n, left in zip(widths, is_left))
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
