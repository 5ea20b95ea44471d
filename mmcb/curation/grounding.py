"""Whether a text speaks of what a picture shows: a content word of the caption stands in it."""

import re

# Words that a caption and any request may share without speaking of the same thing.
_STOP_TEXT = """
a about above across after again against all along also am among an and another any appear
appearing appears are around as at away back background be because been before behind being below
beneath beside besides between beyond big both bottom but by can captured close contain contains
could depict depicts did displayed do does doing down during each eight features featuring few
first five for foreground four from front full get give had has have having he her here hers him
his how i if image images in inside into is it its just large left like little located long look
looks make makes many may me middle more most much must my near next nine no nobody none nor not
nothing of off old on one only onto or other our out outside over own pair part photo photograph
photographs photos picture pictured pictures placed positioned right same scene scenes second see
seen seven several she short should show showing shown shows side sides six small so some someone
something such ten than that the their them then there these they thing things third this those
three through to together top toward towards two under underneath until up upon us use used using
various very view views visible was way we well were what when where which while who whom whose
why will with within without would you your
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


def content_words(text: str) -> frozenset[str]:
    """The words that name what a text is about, plural folded into singular."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return frozenset(_singular(word) for word in words if len(word) > 1 and word not in _STOP_WORDS)


def _singular(word: str) -> str:
    """Fold the regular plurals of English; only ever compared with itself, so it may be crude."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def is_grounded(text: str, caption: str) -> bool:
    """Whether the text names at least one content word of the caption."""
    return not content_words(text).isdisjoint(content_words(caption))
