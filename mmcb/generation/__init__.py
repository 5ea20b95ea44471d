"""Generation: one protocol for everything that writes text, and the engines behind it."""

from mmcb.generation.factory import make_generator
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator

__all__ = ["Completion", "Request", "Sampling", "TextGenerator", "make_generator"]
