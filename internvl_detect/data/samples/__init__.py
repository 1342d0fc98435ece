"""A small data set made of the photographs in the package, for the demo and for trying the trainer."""
