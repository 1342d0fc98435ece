"""How good a detector is: predictions read and made, figures with intervals, baselines, tables. Imports no torch."""
