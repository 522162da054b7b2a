"""What every fit shares: one geometric transform, samples, the loop and its checkpoint."""
