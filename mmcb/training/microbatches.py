"""How a step's examples are cut into micro-batches: little padding, and never more than fits.

The losses are means over all tokens of the step, however it is cut (`losses.py`), so the cut is
free to be the cheapest one: rows of like length together, as many as the memory allows.
"""

from collections.abc import Sequence

OVERHEAD_TOKENS = 128
"""What a micro-batch costs by itself, in tokens: with fewer than these, a pass is no cheaper.

On a GPU it is the time to read the weights once; on two CPU cores, that of small matrices."""


def cut(
    lengths: Sequence[int], *, max_tokens: int | None = None, overhead: int = OVERHEAD_TOKENS
) -> list[list[int]]:
    """Group rows by length so that padded tokens, and `overhead` for each group, are fewest.

    Exact, by dynamic programming over the rows in order of length: the best groups are runs of it.

    Args:
        lengths: tokens of each row.
        max_tokens: no group has more tokens than this, padding included, unless it is one row that
            alone is longer.
        overhead: cost of a group, in tokens.

    Returns:
        Indices into `lengths`, one list a group, longest rows first: if memory does not do, it
        shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    best: list[float] = [0.0] + [float("inf")] * len(order)
    begin = [0] * (len(order) + 1)
    for stop in range(1, len(order) + 1):
        for start in range(stop):
            # Rows go from long to short, so the first of a group sets its width.
            padded = lengths[order[start]] * (stop - start)
            if max_tokens is not None and padded > max_tokens and stop - start > 1:
                continue
            cost = best[start] + padded + overhead
            if cost < best[stop]:
                best[stop], begin[stop] = cost, start
    groups = []
    stop = len(order)
    while stop:
        groups.append(order[begin[stop] : stop])
        stop = begin[stop]
    return groups[::-1]
