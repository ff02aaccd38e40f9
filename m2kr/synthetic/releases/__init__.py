"""One module per family of raw releases: each release is a function from a `World` to the files of its folder."""
