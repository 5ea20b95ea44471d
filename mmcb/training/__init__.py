"""Training of circuit breakers by representation rerouting: `python -m mmcb.training`."""
