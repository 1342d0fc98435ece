"""``ivdetect serve``: HTTP with one owner of the model, decoding in processes of its own, jobs that survive, a page.

Needs the extra ``serve`` (fastapi, uvicorn, python-multipart, prometheus-client). How it is used: docs/serve.md; what
it defends against: docs/security.md. Not here: judging (``detect``), reports (``report``), opening files (``media``).
"""
