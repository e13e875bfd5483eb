"""Programs: whatever stands here answers --help; the rooms below hold what they share."""
