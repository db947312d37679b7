"""The page beside the scanner: the newest picture with its outline, its age, and how the run is doing.

Starlette and Uvicorn, the extra "web"; `edge.web.server.WebSink` is the sink.
"""
