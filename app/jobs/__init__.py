"""Jobs of the image that a schedule starts: each runs once, says how it went in metrics, and ends."""
