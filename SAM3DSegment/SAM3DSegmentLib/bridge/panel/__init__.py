"""The panel: one file a section of the form."""
