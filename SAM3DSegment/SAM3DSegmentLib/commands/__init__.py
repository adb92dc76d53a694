"""The commands of the command line, one file each: `add` its options, `run` it."""
