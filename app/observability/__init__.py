"""What an operator sees: log lines, metrics and traces, and the way they leave."""
