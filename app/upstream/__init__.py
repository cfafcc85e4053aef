"""The connection to OpenAI, which all requests share."""
