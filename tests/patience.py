"""How long a test waits for what has to come: what never comes fails here, and a machine that is busy is only slow."""

PATIENCE_SECONDS = 60.0
