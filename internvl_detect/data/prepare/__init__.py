"""From manifest rows to training data: split by source, asked questions, written as conversations."""
