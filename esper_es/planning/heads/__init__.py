"""The size of attention heads: channels inside of heads, what new ones hold, how scores are scaled."""
