"""How a step's examples are cut into micro-batches: little padding, and never more than fits.

The losses are means over all tokens of the step, however it is cut (`losses.py`), so the cut is
free to be the cheapest one: rows of like length together, as many as the memory allows. So is their
sharing out among processes: each gets equally many, and the long ones run side by side.
"""

from collections.abc import Iterator, Sequence

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


def deal(
    lengths: Sequence[int],
    *,
    processes: int,
    max_tokens: int | None = None,
    overhead: int = OVERHEAD_TOKENS,
) -> list[list[list[int]]]:
    """Cut rows into groups for several processes: equally many for each, equally long side by side.

    Processes wait for one another, at the latest at the end of the step and, where parameters are
    sharded, in every pass. So what a round of passes costs is its longest one. For each number of
    rounds the rows are cut by the lowest limit that they fit, and the cheapest number is taken.

    Args:
        lengths: tokens of each row.
        processes: how many there are; one process gets the groups of `cut`.
        max_tokens: as in `cut`.
        overhead: as in `cut`, for each round.

    Returns:
        For each process its groups of indices into `lengths`, longest first. A group may be empty,
        where there are fewer rows than processes.
    """
    if processes == 1:
        return [cut(lengths, max_tokens=max_tokens, overhead=overhead)]
    cheapest = float("inf")
    dealt: list[list[list[int]]] = [[] for _ in range(processes)]
    for rounds in range(1, -(-len(lengths) // processes) + 1):
        groups = _evenly(lengths, groups=rounds * processes, max_tokens=max_tokens)
        groups.sort(key=lambda group: -_padded(lengths, group))
        several = [_padded(lengths, group) for group in groups if len(group) > 1]
        fits = max_tokens is None or max(several, default=0) <= max_tokens
        cost = rounds * overhead + sum(_padded(lengths, group) for group in groups[::processes])
        if fits and cost < cheapest:
            cheapest, dealt = cost, _shares(lengths, groups, rounds=rounds, processes=processes)
    return dealt


def _evenly(lengths: Sequence[int], *, groups: int, max_tokens: int | None) -> list[list[int]]:
    """At most so many groups of rows of like length, the largest of them as small as can be."""
    longest = max(lengths)
    low, high = min(longest, max_tokens or longest), longest * len(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(list(_filled(lengths, limit=middle))) <= groups:
            high = middle
        else:
            low = middle + 1
    return list(_filled(lengths, limit=low))


def _filled(lengths: Sequence[int], *, limit: int) -> Iterator[list[int]]:
    """Groups of rows from long to short, each filled up to `limit` tokens, padding included."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if group and lengths[group[0]] * (len(group) + 1) > limit:
            yield group
            group = []
        group.append(index)
    yield group


def _shares(
    lengths: Sequence[int], groups: Sequence[list[int]], *, rounds: int, processes: int
) -> list[list[list[int]]]:
    """Give a group to each process in every round, the longest to who has least so far."""
    shares: list[list[list[int]]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for number in range(rounds):
        side_by_side = groups[number * processes : (number + 1) * processes]
        waiting = sorted(range(processes), key=lambda process: (tokens[process], process))
        for place, process in enumerate(waiting):
            group = side_by_side[place] if place < len(side_by_side) else []
            shares[process].append(group)
            tokens[process] += _padded(lengths, group)
    return shares


def _padded(lengths: Sequence[int], group: Sequence[int]) -> int:
    return lengths[group[0]] * len(group) if group else 0
