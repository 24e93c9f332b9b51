"""What every room stands on: errors, types, numbers, trees, masks and random bits."""
