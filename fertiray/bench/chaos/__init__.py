"""``fertiray bench chaos``: what the system promises of faults, tried on purpose and counted."""
