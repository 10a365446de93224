"""Floor 2: where tasks come from, how they become clients and prompts."""
