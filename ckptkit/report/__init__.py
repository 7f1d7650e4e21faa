"""What has happened in a directory of checkpoints, gathered and laid out as a page for people."""
