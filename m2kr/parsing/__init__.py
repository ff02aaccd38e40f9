"""Raw files to rows: text, JSON and delimited files, compressed or not, with bad rows set apart."""
