"""Floor 4: which rank which device affords, and what rounds cost, before any is played."""
