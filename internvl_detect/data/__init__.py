"""Training and test data: formats, checks, readers. Imports no torch."""
