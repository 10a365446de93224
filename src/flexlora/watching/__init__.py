"""Floor 5: runs as they go, in a browser. Reads run directories only; needs flexlora[watch]."""
