"""The converters, one module a dataset: raw releases to lazy tables of questions and passages."""
