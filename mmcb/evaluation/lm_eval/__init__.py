"""EleutherAI's lm-evaluation-harness (lm-eval) on a model before and after its defence."""
