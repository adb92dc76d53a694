"""How fast this computer segments, beside others' programs and its own limit; see `sam3dsegment bench`."""
