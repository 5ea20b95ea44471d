"""Attacks on the input embeddings: vectors behind the request that make the target likely."""
