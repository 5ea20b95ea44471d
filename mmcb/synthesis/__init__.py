"""Synthesis: captions to circuit-breaker set and retain set (`python -m mmcb.synthesis`)."""
