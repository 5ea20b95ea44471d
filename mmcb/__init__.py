"""mmcb: multimodal circuit breakers, and the attacks that test them."""

__version__ = "0.1.0"
