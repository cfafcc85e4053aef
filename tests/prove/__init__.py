"""`make prove`: what the docs promise about replicas together, measured over real processes; one file a claim."""
