"""Which of COCO's licences are meant: Flickr photographs come under eight of them."""

from collections.abc import Collection, Mapping, Sequence

from mmcb.errors import MmcbError


def license_numbers(
    wanted: Sequence[str], *, names: Mapping[int, str], used: Collection[int]
) -> list[int]:
    """COCO's numbers of the wanted licences.

    Args:
        wanted: Numbers or names as annotation files list them; case does not matter.
        names: Names by number, from the annotation files.
        used: Numbers that the images have.

    Raises:
        MmcbError: No image has a licence, or there is none of that name or number.
    """
    known = sorted({*names, *used})
    if not used:
        raise MmcbError(
            "no annotation file gives the licences of these images",
            hint="get COCO's annotations (mmcb coco download), or leave --licenses out",
        )
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():
        by_name.setdefault(name.casefold(), []).append(number)
    numbers: list[int] = []
    for text in wanted:
        found = by_name.get(text.casefold(), [])
        if text.isdecimal() and int(text) in known:
            found = [int(text)]
        if not found:
            listed = ", ".join(f"{number} ({names.get(number, 'no name')})" for number in known)
            raise MmcbError(f"no licence {text!r}", hint=f"--licenses takes: {listed}")
        numbers += found
    return sorted(set(numbers))
