"""Training and test data. Imports no torch.

What every room stands on lies here: ``findings``, ``jsonl``, ``json_stream``, ``folders``, ``labels``, ``manifest``,
``engine``. The rooms: ``storage`` (tar members, object stores), ``datasets`` (the catalog, what lies on a disk),
``conversations`` (InternVL's format), ``survey`` (files looked at), ``forge`` (forgeries made), ``prepare`` (manifest
to training data), ``shards`` (tar shards), ``samples`` (the demo's data).
"""
