"""Representation steering: the direction that tells requests to refuse from others, taken out."""
