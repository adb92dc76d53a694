"""The ground: errors, files, folders, how work is watched and stopped, devices. Imports nothing else of ours."""
