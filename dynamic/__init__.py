"""What Pulumi has no resource for. Apart from `components`: dynamic resources work from Python programs only."""
