"""Sources of clips: files in folders, tar shards, memory, stores of decoded clips on disk and on the device."""
