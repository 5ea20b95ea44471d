"""Every attack of a suite on base and defended model, and one evaluation of them all."""
