"""Strength checks: is a low number the defence's doing, or the attack's weakness?"""
