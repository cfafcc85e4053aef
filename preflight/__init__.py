"""Reviews a stack before it exists, from what the real program registers. Never imports a component."""
