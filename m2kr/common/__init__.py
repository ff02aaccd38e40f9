"""What every part shares: files, progress, the registries of plug-ins."""
