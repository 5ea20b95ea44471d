"""Models: the table of families, loading, chat, differentiable vision, hidden states, export."""
