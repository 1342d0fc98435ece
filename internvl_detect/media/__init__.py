"""Pictures and clips from strangers, opened safely and cut into the model's tiles. Imports no torch."""
