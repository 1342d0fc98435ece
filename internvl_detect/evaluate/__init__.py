"""How good a detector is: metrics and, later, runners and tables. Imports no torch."""
