"""Predictions of any number of pictures, shard by shard: what is finished is never done again."""
