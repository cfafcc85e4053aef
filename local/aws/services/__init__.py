"""One module a service (two where it is long): operations that moto lacks or gets wrong, for what the stacks use.

Each says which operations it answers and which resource fails or drifts under stock moto without them.
"""
