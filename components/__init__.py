"""The AWS side: one noun, one file. Nothing is imported here: take a component from its module."""
