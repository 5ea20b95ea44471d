"""Self-contained HTML pages: their look, their charts, and what a run logged as curves."""
