"""What every package shares: options, files, resuming, measuring, progress, threads, registries."""
