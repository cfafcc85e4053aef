"""The reference app: an OpenAI-compatible gateway, a product on top of it, and the worker that feeds the product."""
