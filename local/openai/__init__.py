"""A simulator of the OpenAI API: the same wire format, limits, errors and streams, with answers made from the input."""
