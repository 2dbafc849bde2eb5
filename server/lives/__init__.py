"""What became of the last requests: kept from their transitions, told in sentences and drawn."""
