"""The files of a built benchmark: columns and rules, manifest, dataset card, Croissant metadata."""
