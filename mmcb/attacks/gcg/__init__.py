"""Greedy coordinate gradient: tokens behind the request that make the target likely."""
