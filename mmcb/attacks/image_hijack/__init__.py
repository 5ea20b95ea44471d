"""Image hijacks: pictures optimised so that a model gives a chosen answer."""
