"""Budgets: how much may be spent in a window, and what happens on the way there."""
