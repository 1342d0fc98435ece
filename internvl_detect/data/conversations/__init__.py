"""Training data in InternVL's format: a meta JSON and its JSONL files, read, written, checked, their media opened."""
