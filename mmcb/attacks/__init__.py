"""Attacks: what turns a behavior into attempts (text prompts, optimised images)."""
