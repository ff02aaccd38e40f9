"""Training PreFLMR: stages, batches, negatives, the trainer, validation."""
