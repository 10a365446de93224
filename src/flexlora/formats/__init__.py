"""Floor 2: what is written to disk and sent: payloads, PEFT folders, atomic writes."""
