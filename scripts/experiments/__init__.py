"""What the tables and figures of the paper are made of: rows as data, runs as jobs."""
