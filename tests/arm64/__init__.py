"""The arm64 gate: edgekit installed and run in an emulated Debian, as a Raspberry Pi 4 and as a Raspberry Pi 5.

`make arm64`, or `python -m arm64` with this folder's parent on the path; docs/arm64.md says what it proves.
"""
