"""Fine-tuning by LoRA: from meta JSON to an adapter folder."""
