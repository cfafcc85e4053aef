"""An emulated AWS on loopback: moto, plus AppConfig, which moto has only in part. `python -m local.aws`."""
