"""Several models on the same pictures, side by side: `panseg compare`."""
