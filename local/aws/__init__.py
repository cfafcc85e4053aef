"""An emulated AWS on loopback: moto, plus what it lacks for this kit's stacks. `python -m local.aws`.

It keeps configuration and answers as AWS would; it runs no task, build or query and enforces no right. Point any client
at it with AWS_ENDPOINT_URL and any credentials. Tests also POST to /_emulator/... (`admin.py`).
"""
