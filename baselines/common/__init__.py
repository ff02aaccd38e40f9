"""What the retrievers and readers share: batching, checkpoints, processes."""
