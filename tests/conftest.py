"""What every test shares."""

import os

from hypothesis import settings

# A busy machine makes any example slow, so none has a deadline. CI tries the same examples each time: a new one that
# fails is for whoever runs the tests at a desk, not for a change that has nothing to do with it.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
