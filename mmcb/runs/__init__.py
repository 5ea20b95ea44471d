"""The commands that look at runs: what there is, one of them, several side by side."""
