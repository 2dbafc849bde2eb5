"""The live view of a scheduler in the terminal."""
