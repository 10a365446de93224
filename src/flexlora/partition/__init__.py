"""Floor 1: how examples become clients."""
