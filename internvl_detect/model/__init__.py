"""InternVL2 in transformers' own classes: checkpoints, adapters, tokenizer, prompts, scores."""
