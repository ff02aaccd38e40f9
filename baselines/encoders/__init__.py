"""Ways to encode that `baselines.sentence_transformer` takes by what a model is: modules, or a published template."""
