"""Video files to frames: containers, streams, times, pixel formats."""
