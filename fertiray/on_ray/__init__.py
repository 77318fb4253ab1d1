"""The thin shell: each file puts one core object on one Ray library."""
