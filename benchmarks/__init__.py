"""Latency, memory and size of a bundle's artifacts, and reports."""
