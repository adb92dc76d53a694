"""The same command on another computer, through its SSH server."""
