"""Answers that are kept, shared while they are made, and gone when the data behind them changes."""
