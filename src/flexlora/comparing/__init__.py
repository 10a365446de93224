"""Floor 5: many federations side by side: arms and seeds, played into one folder."""
