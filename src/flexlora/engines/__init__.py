"""Floor 3: jobs in, outcomes out, wherever clients are; knows no run and no loop."""
