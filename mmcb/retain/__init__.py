"""Retain sets: what a defended model must keep doing, mixed by exact counts."""
