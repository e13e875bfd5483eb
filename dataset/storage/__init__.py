"""Where decoded clips lie between epochs and runs: caches, and tar shards."""
