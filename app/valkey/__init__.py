"""The connection to the cache server, which all requests share."""
