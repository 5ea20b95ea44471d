"""Which images of COCO to take when not all are wanted: a little of everything that they show.

COCO is uneven: of its 118,287 training images 64,115 show a person and 189 a hair drier, so that a
uniform sample of 5,000 holds about eight hair driers.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence


def coverage_order(
    sizes: Mapping[str, int],
    *,
    queue: Callable[[str], Iterator[int]],
    categories: Callable[[int], Sequence[str]],
) -> Iterator[int]:
    """Put images into an order whose every beginning covers the categories evenly.

    Greedy: the next image is one of the category that the images so far show least often (among
    equals: the rarer one in the folder, then by name), and the first in this category's queue that
    is not taken yet. Everything it shows counts. A category whose images are all taken drops out.

    The order does not depend on how many are taken, so a larger sample holds every smaller one.
    Images without annotations form a category of their own; if there is no other, the order is that
    of its queue: a seeded shuffle gives a uniform sample.

    Args:
        sizes: How many images each category has.
        queue: A category's images, shuffled; each image has one rank in all its categories.
        categories: What an image shows: at least the category in whose queue it stands.
    """
    shown = dict.fromkeys(sizes, 0)
    queues = {name: queue(name) for name in sizes}
    heap = [(0, size, name) for name, size in sizes.items()]
    heapq.heapify(heap)
    taken: set[int] = set()
    while heap:
        count, size, name = heapq.heappop(heap)
        if count < shown[name]:  # it was shown beside others since it was pushed
            heapq.heappush(heap, (shown[name], size, name))
            continue
        image = next((image for image in queues[name] if image not in taken), None)
        if image is None:
            continue
        taken.add(image)
        for category in categories(image):
            shown[category] += 1
        heapq.heappush(heap, (shown[name], size, name))
        yield image
