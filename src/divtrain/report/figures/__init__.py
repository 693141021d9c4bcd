"""Pictures of numbers, as PNG bytes; a file each."""
