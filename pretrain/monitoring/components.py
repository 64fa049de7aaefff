"""The components of a model that parameters belong to (imports no torch)."""

# components by words in the names of their parameters; the first that fits
_WORDS = {
    "embedding": "embedding",
    "gate.": "gates",
    "filter": "filters",
    "feed_forward.": "feed_forward",
    "norm": "norms",
    "mixer.": "mixers",
}
COMPONENTS = (*dict.fromkeys(_WORDS.values()), "other")


def component_of(name: str) -> str:
    """Component of the model that a parameter belongs to."""
    return next((part for words, part in _WORDS.items() if words in name), "other")
