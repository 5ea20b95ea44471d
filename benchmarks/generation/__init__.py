"""Captions a second of the engines on the same scenes, and the memory that captioning takes."""
