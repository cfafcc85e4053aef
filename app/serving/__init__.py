"""HTTP as callers see it: from the socket to the pipeline and back."""
